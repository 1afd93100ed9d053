//! `mortise setting`: manages MOR's settings in the table `conflines`, per owner.

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::database::with_database;
use super::{CommandError, Report, author, find_settings_owner_id, secret};
use crate::accounts::Setting;
use crate::config::Config;
use crate::input;
use crate::store::change_log::{Change, Target, What};

/// Subcommands of `mortise setting`.
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
    /// Change a setting; every server applies it within a second
    Set {
        /// The setting's name
        #[arg(value_parser = input::parse_name)]
        name: String,
        /// The value; switches accept on and off. Omit a password: type it, or send it on standard input
        #[arg(value_parser = input::parse_name)]
        value: Option<String>,
        /// The reseller whose setting it is [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
        /// Add a name that neither Mortise nor the database knows
        #[arg(long)]
        new: bool,
    },
    /// List the settings that Mortise reads, of all owners
    List {
        /// List all of MOR's settings in the database
        #[arg(long)]
        all: bool,
    },
}

/// Settings whose value 1 means on.
const BOOLEAN_SETTINGS: [&str; 9] = [
    "Email_Sending_Enabled",
    "Allow_API",
    "Allow_GET_API",
    "API_Disable_hash_checking",
    "XML_API_Extension",
    "CC_Active",
    "API_Allow_payments_ower_API",
    "Devices_Check_Rate",
    "Allow_Resellers_to_use_Admin_Tariffs",
];

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Get { name, user } => get(name, user.as_deref(), config).await,
        Command::Set { name, value, user, new } => set(name, value.as_deref(), user.as_deref(), *new, config).await,
        Command::List { all } => list(*all, config).await,
    }
}

/// Whether a setting is a key, or a password that MOR stores in its settings.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "password", "passwd", "secret", "token"].iter().any(|part| name.contains(part))
}

fn secret_error(name: &str) -> CommandError {
    CommandError::Usage(format!("{name} is a secret and not available here: for API keys, use `mortise key`"))
}

async fn get(name: &str, user: Option<&str>, config: &Config) -> Result<Report, CommandError> {
    if is_secret(name) {
        return Err(secret_error(name));
    }
    with_database(config, async |pool| {
        let owner = find_settings_owner_id(pool, user).await?;
        let row = sqlx::query!(
            r#"select coalesce(value, '') as "value!", value2 from conflines where owner_id = $1 and name = $2 order by id limit 1"#,
            owner,
            name
        );
        let row = row.fetch_optional(pool).await?;
        let row = row.ok_or_else(|| CommandError::NotFound(format!("{name} is not set for owner {owner}")))?;
        let json = json!({ "name": name, "owner_id": owner, "value": row.value, "value2": row.value2 });
        Ok(Report::new(row.value.as_str(), json))
    })
    .await
}

/// Returns the value of a switch as MOR stores it. MOR reads every value except 1 as off, without an error.
fn normalize_value(name: &str, value: &str) -> Result<String, CommandError> {
    if !BOOLEAN_SETTINGS.contains(&name) {
        return Ok(value.to_owned());
    }
    match value {
        "1" | "on" | "yes" | "true" => Ok("1".to_owned()),
        "0" | "off" | "no" | "false" | "" => Ok("0".to_owned()),
        _ => Err(CommandError::Usage(format!("{name} is a switch: its value is on or off"))),
    }
}

/// Returns the value to store. A secret is read from the terminal or standard input only.
fn resolve_value(name: &str, value: Option<&str>) -> Result<String, CommandError> {
    match value {
        _ if name.to_ascii_lowercase().starts_with("api_secret_key") => Err(secret_error(name)),
        None if is_secret(name) => secret::read(name),
        Some(_) if is_secret(name) => Err(CommandError::Usage(format!(
            "{name} is a secret: omit its value, then type it or send it on standard input"
        ))),
        Some(value) => normalize_value(name, value),
        None => Err(CommandError::Usage(format!("{name} needs a value"))),
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
        let mut transaction = pool.begin().await?;
        let owner = find_settings_owner_id(&mut *transaction, user).await?;
        sqlx::query!("lock table conflines in share row exclusive mode").execute(&mut *transaction).await?;
        let names = sqlx::query_scalar!(r#"select distinct name as "name!" from conflines where name is not null"#)
            .fetch_all(&mut *transaction)
            .await?;
        if !new && name.parse::<Setting>().is_err() && !names.iter().any(|known| known == name) {
            let similar = names
                .iter()
                .map(String::as_str)
                .chain(Setting::NAMES.iter().copied())
                .find(|known| known.eq_ignore_ascii_case(name));
            let hint = similar.map_or("--new adds it anyway".to_owned(), |similar| format!("did you mean {similar}?"));
            return Err(CommandError::NotFound(format!("there is no setting {name}: {hint}")));
        }
        let before = sqlx::query_scalar!(
            "select value from conflines where owner_id = $1 and name = $2 order by id limit 1",
            owner,
            name
        );
        let before = before.fetch_optional(&mut *transaction).await?;
        sqlx::query!(
            "with changed as (update conflines set value = $3 where owner_id = $1 and name = $2 returning id)
             insert into conflines (owner_id, name, value) select $1, $2, $3 where not exists (select from changed)",
            owner,
            name,
            value
        )
        .execute(&mut *transaction)
        .await?;
        let masked = |value: String| if is_secret(name) { "(hidden)".to_owned() } else { value };
        let value_json = |value: &str| json!({ "value": masked(value.to_owned()) }).to_string();
        let change = Change {
            what: What::Setting,
            target: Target::Row { id: owner.into(), name },
            // Two hidden values would look the same.
            before: before
                .as_ref()
                .filter(|_| !is_secret(name))
                .map(|before| value_json(before.as_deref().unwrap_or_default())),
            after: Some(value_json(&value)),
        };
        change.record(&mut transaction, &author()).await?;
        let (value, before) = (masked(value), masked(before.flatten().unwrap_or_default()));
        transaction.commit().await?;
        let text = format!("{name} of owner {owner} is {value:?} now (it was {before:?}).");
        Ok(Report::new(text, json!({ "name": name, "owner_id": owner, "value": value, "before": before })))
    })
    .await
}

/// A row of `mortise setting list`.
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
