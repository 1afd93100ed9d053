//! `mortise setting`: MOR's settings in the table `conflines`, per owner.

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::database::with_database;
use super::{AuditEntry, CommandError, Report, find_settings_owner_id, secret};
use crate::accounts::Setting;
use crate::config::Config;

/// What to do with settings.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a setting's value
    Get {
        /// The setting's name
        name: String,
        /// The reseller whose setting it is [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
    },
    /// Change a setting; every server follows within a second
    Set {
        /// The setting's name
        name: String,
        /// Its value; switches take on and off too. A password is left out here: it is typed, or read from standard input
        value: Option<String>,
        /// The reseller whose setting it is [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
        /// Add it even if Mortise reads none of this name and the database has none
        #[arg(long)]
        new: bool,
    },
    /// List the settings that Mortise reads, of every owner
    List {
        /// All of MOR's settings that the database has
        #[arg(long)]
        all: bool,
    },
}

/// Settings that are on with 1.
const BOOLEAN_SETTINGS: [&str; 7] = [
    "Email_Sending_Enabled",
    "Allow_API",
    "Allow_GET_API",
    "API_Disable_hash_checking",
    "XML_API_Extension",
    "CC_Active",
    "API_Allow_payments_ower_API",
];

/// Does it.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Get { name, user } => get(name, user.as_deref(), config).await,
        Command::Set { name, value, user, new } => set(name, value.as_deref(), user.as_deref(), *new, config).await,
        Command::List { all } => list(*all, config).await,
    }
}

/// Keys, and the passwords that MOR keeps among its settings.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "password", "passwd", "secret", "token"].iter().any(|part| name.contains(part))
}

fn secret_not_shown(name: &str) -> CommandError {
    CommandError::Usage(format!("{name} is a secret, which isn't shown here: `mortise key` is for API keys"))
}

async fn get(name: &str, user: Option<&str>, config: &Config) -> Result<Report, CommandError> {
    if is_secret(name) {
        return Err(secret_not_shown(name));
    }
    with_database(config, async |pool| {
        let owner = find_settings_owner_id(pool, user).await?;
        let row = sqlx::query!(
            r#"select coalesce(value, '') as "value!", value2 from conflines where owner_id = $1 and name = $2 order by id limit 1"#,
            owner,
            name
        );
        let row = row.fetch_optional(pool).await?;
        let row = row.ok_or_else(|| CommandError::NotFound(format!("{name} isn't set for owner {owner}")))?;
        Ok(Report::new(row.value.as_str(), json!({ "name": name, "owner_id": owner, "value": row.value, "value2": row.value2 })))
    })
    .await
}

/// A switch's value as MOR writes it. Any word but 1 would quietly be off.
fn normalize_value(name: &str, value: &str) -> Result<String, CommandError> {
    if !BOOLEAN_SETTINGS.contains(&name) {
        return Ok(value.to_owned());
    }
    match value {
        "1" | "on" | "yes" | "true" => Ok("1".to_owned()),
        "0" | "off" | "no" | "false" | "" => Ok("0".to_owned()),
        _ => Err(CommandError::Usage(format!("{name} is a switch: on or off"))),
    }
}

/// The value as it is to be kept, from where it may come.
fn resolve_value(name: &str, value: Option<&str>) -> Result<String, CommandError> {
    match value {
        _ if name.to_ascii_lowercase().starts_with("api_secret_key") => Err(secret_not_shown(name)),
        None if is_secret(name) => secret::read(name),
        Some(_) if is_secret(name) => Err(CommandError::Usage(format!(
            "{name} is a secret: leave its value out, and type it or send it on standard input"
        ))),
        Some(value) => normalize_value(name, value),
        None => Err(CommandError::Usage(format!("say a value for {name}"))),
    }
}

async fn set(
    name: &str,
    value: Option<&str>,
    user: Option<&str>,
    new: bool,
    config: &Config,
) -> Result<Report, CommandError> {
    let value = resolve_value(name, value)?;
    with_database(config, async |pool| {
        let mut change = pool.begin().await?;
        let owner = find_settings_owner_id(&mut *change, user).await?;
        sqlx::query!("lock table conflines in share row exclusive mode").execute(&mut *change).await?;
        let names = sqlx::query_scalar!(r#"select distinct name as "name!" from conflines where name is not null"#)
            .fetch_all(&mut *change)
            .await?;
        if !new && name.parse::<Setting>().is_err() && !names.iter().any(|known| known == name) {
            let alike = names
                .iter()
                .map(String::as_str)
                .chain(Setting::NAMES.iter().copied())
                .find(|known| known.eq_ignore_ascii_case(name));
            let hint = alike.map_or("--new adds it all the same".to_owned(), |alike| format!("did you mean {alike}?"));
            return Err(CommandError::NotFound(format!("there is no setting {name}: {hint}")));
        }
        let before = sqlx::query_scalar!(
            "select value from conflines where owner_id = $1 and name = $2 order by id limit 1",
            owner,
            name
        );
        let before = before.fetch_optional(&mut *change).await?.flatten().unwrap_or_default();
        sqlx::query!(
            "with changed as (update conflines set value = $3 where owner_id = $1 and name = $2 returning id)
             insert into conflines (owner_id, name, value) select $1, $2, $3 where not exists (select from changed)",
            owner,
            name,
            value
        )
        .execute(&mut *change)
        .await?;
        let shown = |value: String| if is_secret(name) { "(hidden)".to_owned() } else { value };
        let (value, before) = (shown(value), shown(before));
        let deed = AuditEntry {
            action: "setting_changed",
            target_type: "User",
            target_id: owner.into(),
            data: name,
            data2: &value,
            data3: &before,
        };
        deed.record(&mut change).await?;
        change.commit().await?;
        let text = format!("{name} of owner {owner} is {value:?} now (it was {before:?}).");
        Ok(Report::new(text, json!({ "name": name, "owner_id": owner, "value": value, "before": before })))
    })
    .await
}

/// A setting of an owner.
#[derive(Debug, Serialize)]
struct SettingRow {
    owner_id: i32,
    owner: Option<String>,
    name: String,
    value: Option<String>,
    value2: Option<String>,
}

async fn list(all: bool, config: &Config) -> Result<Report, CommandError> {
    let settings = with_database(config, async |pool| {
        let settings = sqlx::query_as!(
            SettingRow,
            r#"select * from (
                   select distinct on (c.owner_id, c.name) coalesce(c.owner_id, 0) as "owner_id!", u.username as "owner?",
                       coalesce(c.name, '') as "name!", c.value, c.value2
                   from conflines c left join users u on u.id = c.owner_id
                   where $1 or c.name = any ($2) order by c.owner_id, c.name, c.id) first
               order by 1, 3"#,
            all,
            &Setting::owned_names()
        );
        let mut settings = settings.fetch_all(pool).await?;
        for setting in &mut settings {
            if is_secret(&setting.name) && setting.value.as_deref().is_some_and(|value| !value.is_empty()) {
                setting.value = Some("(hidden)".to_owned());
            }
        }
        Ok(settings)
    })
    .await?;
    Ok(Report::table(["OWNER", "NAME", "VALUE", "VALUE2"], &settings, |setting| {
        [
            setting.owner.clone().unwrap_or_else(|| setting.owner_id.to_string()),
            setting.name.clone(),
            setting.value.clone().unwrap_or_default(),
            setting.value2.clone().unwrap_or_default(),
        ]
    }))
}
