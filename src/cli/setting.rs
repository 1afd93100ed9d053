//! `mortise setting`: manages MOR's settings in the table `conflines`, per owner.

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::database::{with_database, with_transaction};
use super::{ADMIN_ID, CommandError, Report, author, find_settings_owner_id, secret};
use crate::back_office::settings::{self, SETTINGS, SettingChange, is_secret};
use crate::back_office::users::owner_name;
use crate::config::Config;
use crate::input;

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
        #[arg(value_parser = input::parse_column_text)]
        name: String,
        /// The value; switches accept on and off. Omit a password: type it, or send it on standard input
        #[arg(value_parser = input::parse_column_text)]
        value: Option<String>,
        /// The reseller whose setting it is [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
        /// Add a name that neither Mortise nor the database knows
        #[arg(long)]
        new: bool,
    },
    /// List every setting that Mortise reads, with its type, default and meaning
    List {
        /// Also MOR's other settings in the database
        #[arg(long)]
        all: bool,
    },
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Get { name, user } => get(name, user.as_deref(), config).await,
        Command::Set { name, value, user, new } => set(name, value.as_deref(), user.as_deref(), *new, config).await,
        Command::List { all } => list(*all, config).await,
    }
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

/// Returns the value to store. A secret is read from the terminal or standard input only.
fn resolve_value(name: &str, value: Option<&str>) -> Result<String, CommandError> {
    match value {
        _ if name.to_ascii_lowercase().starts_with("api_secret_key") => Err(secret_error(name)),
        None if is_secret(name) => secret::read(name),
        Some(_) if is_secret(name) => Err(CommandError::Usage(format!(
            "{name} is a secret: omit its value, then type it or send it on standard input"
        ))),
        Some(value) => settings::normalize(name, value).map_err(CommandError::Usage),
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
    with_transaction(config, async |connection| {
        let owner = find_settings_owner_id(&mut *connection, user).await?;
        let SettingChange { before, after } = settings::set(connection, owner, name, &value, new, &author()).await?;
        let text = format!("{name} of owner {owner} is {after:?} now (it was {before:?}).");
        Ok(Report::new(text, json!({ "name": name, "owner_id": owner, "value": after, "before": before })))
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

/// A setting with what Mortise knows about it.
#[derive(Debug, Serialize)]
struct ListedSetting {
    #[serde(flatten)]
    row: SettingRow,
    /// `None`: Mortise does not read the setting.
    r#type: Option<&'static str>,
    default: Option<&'static str>,
    description: Option<&'static str>,
}

impl ListedSetting {
    fn new(mut row: SettingRow) -> Self {
        if is_secret(&row.name) && row.value.as_deref().is_some_and(|value| !value.is_empty()) {
            row.value = Some("(hidden)".to_owned());
        }
        let info = settings::find(&row.name);
        Self {
            row,
            r#type: info.map(|info| info.kind.name()),
            default: info.map(|info| info.default),
            description: info.map(|info| info.description),
        }
    }
}

/// Lists the values in the database, and the settings of the admin that are not set.
async fn list(all: bool, config: &Config) -> Result<Report, CommandError> {
    let names: Vec<String> = SETTINGS.iter().map(|setting| setting.name.to_owned()).collect();
    let mut rows = with_database(config, async |pool| {
        let rows = sqlx::query_as!(
            SettingRow,
            r#"select * from (
                   select distinct on (c.owner_id, c.name) coalesce(c.owner_id, 0) as "owner_id!", u.username as "owner?",
                       coalesce(c.name, '') as "name!", c.value, c.value2
                   from conflines c left join users u on u.id = c.owner_id
                   where $1 or c.name = any ($2) order by c.owner_id, c.name, c.id) first
               order by 1, 3"#,
            all,
            &names
        );
        let mut rows = rows.fetch_all(pool).await?;
        let admin = Some(owner_name(pool, ADMIN_ID).await?);
        let is_set = |name: &str| rows.iter().any(|row| row.owner_id == ADMIN_ID && row.name == name);
        let unset: Vec<SettingRow> = SETTINGS
            .iter()
            .filter(|setting| !is_set(setting.name))
            .map(|setting| SettingRow {
                owner_id: ADMIN_ID,
                owner: admin.clone(),
                name: setting.name.to_owned(),
                value: None,
                value2: None,
            })
            .collect();
        rows.extend(unset);
        Ok(rows)
    })
    .await?;
    // In the order of the subjects; unknown settings come last, by name.
    let position = |name: &str| SETTINGS.iter().position(|setting| setting.name == name).unwrap_or(SETTINGS.len());
    rows.sort_by(|a, b| (a.owner_id, position(&a.name), &a.name).cmp(&(b.owner_id, position(&b.name), &b.name)));
    let listed: Vec<ListedSetting> = rows.into_iter().map(ListedSetting::new).collect();
    let headings = ["OWNER", "NAME", "VALUE", "VALUE2", "TYPE", "DEFAULT", "DESCRIPTION"];
    Ok(Report::table(headings, &listed, |setting| {
        let row = &setting.row;
        [
            row.owner.clone().unwrap_or_else(|| row.owner_id.to_string()),
            row.name.clone(),
            row.value.clone().unwrap_or_default(),
            row.value2.clone().unwrap_or_default(),
            setting.r#type.unwrap_or_default().to_owned(),
            setting.default.unwrap_or_default().to_owned(),
            setting.description.unwrap_or_default().to_owned(),
        ]
    }))
}
