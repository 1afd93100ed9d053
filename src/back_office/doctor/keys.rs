//! Checks of the database settings that control access to the API.

use sqlx::{PgConnection, PgPool};

use super::{Check, join_limited};
use crate::back_office::keys;
use crate::db::seed;
use crate::number;

/// Lengths of a secret key, in characters. All keys of 7 letters and digits can be tried within minutes, of 15 in no
/// foreseeable time.
const KEY_LEN_MIN: usize = 8;
const KEY_LEN_RECOMMENDED: usize = 16;

/// A setting of an owner.
struct ApiSettingRow {
    owner: String,
    owner_id: i32,
    name: String,
    value: String,
    /// For a previous key: the time until which it is valid.
    value2: String,
    /// The database's time, in seconds since 1970.
    now: i64,
}

impl ApiSettingRow {
    fn is_enabled(&self, name: &str) -> bool {
        self.name == name && number::parse_integer(&self.value) == 1
    }

    /// Returns the seconds until a previous key expires, negative after that; `None` if its time is invalid.
    fn remaining_seconds(&self) -> Option<i64> {
        keys::remaining_seconds(&self.value2, self.now)
    }
}

/// Checks the settings of all owners.
pub async fn check_all(pool: &PgPool, connection: &mut PgConnection) -> sqlx::Result<Vec<Check>> {
    let rows = sqlx::query_as!(
        ApiSettingRow,
        r#"select distinct on (c.owner_id, c.name) coalesce(u.username, 'user ' || c.owner_id) as "owner!", coalesce(c.owner_id, 0) as "owner_id!",
               c.name as "name!", coalesce(c.value, '') as "value!", coalesce(c.value2, '') as "value2!",
               extract(epoch from now())::bigint as "now!"
           from conflines c left join users u on u.id = c.owner_id
           where c.name in ('Allow_API', 'Allow_GET_API', 'API_Secret_Key', 'API_Secret_Key_Previous', 'API_Disable_hash_checking')
           order by c.owner_id, c.name, c.id"#
    );
    let rows = rows.fetch_all(connection).await?;
    let has_demo_key = seed::has_demo_key(pool).await?;
    Ok(vec![
        check_demo_key(has_demo_key),
        check_missing_keys(&rows),
        check_key_lengths(&rows),
        check_hash_checking(&rows),
        check_get_requests(&rows),
        check_previous_keys(&rows),
    ])
}

fn check_demo_key(has_demo_key: bool) -> Check {
    if has_demo_key {
        Check::problem(
            "demo key",
            "the secret key is the published one from MOR's documentation: anyone can buy cards",
            "run `mortise key rotate --keep 0s`",
        )
    } else {
        Check::ok("demo key", "the secret key is not the one from MOR's documentation")
    }
}

fn check_missing_keys(rows: &[ApiSettingRow]) -> Check {
    let has_key =
        |owner| rows.iter().any(|row| row.owner_id == owner && row.name == "API_Secret_Key" && !row.value.is_empty());
    let without: Vec<String> = rows
        .iter()
        .filter(|row| row.is_enabled("Allow_API") && !has_key(row.owner_id))
        .map(|row| row.owner.clone())
        .collect();
    Check::ok_if_empty("keys", &without, "every owner with the API on has a secret key", |names| {
        Check::warning(
            "keys",
            format!("the API is on, but no secret key is set: {names}"),
            "run `mortise key set` (--user RESELLER)",
        )
    })
}

/// Checks the lengths of the keys: who sees one signed request can try keys without asking the server.
fn check_key_lengths(rows: &[ApiSettingRow]) -> Check {
    let shorter_than = |length: usize| -> Vec<String> {
        let is_short = |row: &&ApiSettingRow| {
            row.name.starts_with("API_Secret_Key") && (1..length).contains(&row.value.chars().count())
        };
        rows.iter().filter(is_short).map(|row| row.owner.clone()).collect()
    };
    let describe =
        |length: usize, names: &str| format!("secret keys with fewer than {length} characters can be guessed: {names}");
    let advice = "run `mortise key rotate --keep 7d` (--user RESELLER)";
    let (guessable, short) = (shorter_than(KEY_LEN_MIN), shorter_than(KEY_LEN_RECOMMENDED));
    if !guessable.is_empty() {
        return Check::problem("key length", describe(KEY_LEN_MIN, &join_limited(&guessable)), advice);
    }
    Check::ok_if_empty("key length", &short, "no secret key is short", |names| {
        Check::warning("key length", describe(KEY_LEN_RECOMMENDED, &names), advice)
    })
}

fn check_hash_checking(rows: &[ApiSettingRow]) -> Check {
    let off: Vec<String> =
        rows.iter().filter(|row| row.is_enabled("API_Disable_hash_checking")).map(|row| row.owner.clone()).collect();
    Check::ok_if_empty("hashes", &off, "hashes are checked", |names| {
        let message = format!("hashes are not checked for {names}: anyone who knows a user name can buy cards");
        Check::problem("hashes", message, "run `mortise setting set API_Disable_hash_checking off` (--user RESELLER)")
    })
}

fn check_get_requests(rows: &[ApiSettingRow]) -> Check {
    if rows.iter().any(|row| row.owner_id == 0 && row.is_enabled("Allow_GET_API")) {
        let message = "GET is on: hashes and PINs are in URLs, which proxies and browsers store";
        Check::warning("get", message, "change the clients to POST, then run `mortise setting set Allow_GET_API off`")
    } else {
        Check::ok("get", "GET is off")
    }
}

fn check_previous_keys(rows: &[ApiSettingRow]) -> Check {
    let (mut expired, mut valid) = (Vec::new(), Vec::new());
    for row in rows.iter().filter(|row| row.name == "API_Secret_Key_Previous") {
        match row.remaining_seconds() {
            None => expired.push(format!("{} (until {:?}, an invalid time)", row.owner, row.value2)),
            Some(..=0) => expired.push(format!("{} (until {})", row.owner, row.value2)),
            Some(_) => valid.push(format!("{} (until {})", row.owner, row.value2)),
        }
    }
    if !expired.is_empty() {
        let message = format!("expired previous secret keys: {}", join_limited(&expired));
        Check::warning("previous key", message, "run `mortise key end` (--user RESELLER)")
    } else if !valid.is_empty() {
        Check::ok("previous key", format!("still valid: {}", join_limited(&valid)))
    } else {
        Check::ok("previous key", "none")
    }
}
