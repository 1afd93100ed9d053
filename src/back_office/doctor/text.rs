//! Check of secrets and names for invisible characters, which commands refuse and SQL does not.

use futures_util::TryStreamExt;
use sqlx::PgConnection;

use super::Check;
use crate::accounts::Setting;
use crate::input::find_invisible;

/// A text that clients or operators must repeat exactly.
struct NamedText {
    /// What the text is, and whose.
    name: String,
    text: String,
}

/// Reports invisible characters in settings (such as the secret key), user names and names of permission groups.
pub async fn check_invisible_chars(connection: &mut PgConnection) -> sqlx::Result<Check> {
    // Only texts with other characters than visible ASCII, or with spaces around them, can have one.
    let mut texts = sqlx::query_as!(
        NamedText,
        r#"with texts (name, text) as (
               select c.name || ' of ' || coalesce(u.username, 'user ' || c.owner_id), c.value
               from conflines c left join users u on u.id = c.owner_id where c.name = any ($1)
               union all select 'name of the user ' || id, username from users
               union all select 'name of the permission group ' || id, name from acc_groups)
           select name as "name!", text as "text!" from texts
           where text collate "C" ~ '[^ -~]' or text <> btrim(text)
           order by name"#,
        &Setting::owned_names()
    )
    .fetch(connection);
    let mut findings = Vec::new();
    while let Some(NamedText { name, text }) = texts.try_next().await? {
        findings.extend(find_invisible(&text).map(|invisible| format!("{name} has {invisible}")));
    }
    Ok(Check::ok_if_empty("text", &findings, "no invisible character in settings and names", |findings| {
        let advice = "set the value again: `mortise key set`, `mortise setting set`; rename users and groups with SQL";
        Check::warning("text", findings, advice)
    }))
}
