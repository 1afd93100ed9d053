//! Who is let in: the settings in the database that open doors.

use sqlx::{PgConnection, PgPool};

use super::{Check, join_limited};
use crate::db::seed;
use crate::number;

/// An owner's setting.
struct ApiSettingRow {
    owner: String,
    owner_id: i32,
    name: String,
    value: String,
    /// Of a previous key: until when it counts.
    value2: String,
    now: i64,
}

impl ApiSettingRow {
    fn is_enabled(&self, name: &str) -> bool {
        self.name == name && number::parse_integer(&self.value) == 1
    }

    /// The seconds that a previous key still counts; `None` where that can't be read.
    fn remaining_seconds(&self) -> Option<i64> {
        let until = humantime::parse_rfc3339_weak(self.value2.trim()).ok()?;
        let until = until.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?.as_secs();
        Some(i64::try_from(until).ok()? - self.now)
    }
}

/// The checks of all owners' settings.
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
    let public = seed::has_demo_key(pool).await?;
    Ok(vec![
        check_demo_key(public),
        check_missing_keys(&rows),
        check_hash_checking(&rows),
        check_get_requests(&rows),
        check_previous_keys(&rows),
    ])
}

fn check_demo_key(is_public: bool) -> Check {
    if is_public {
        Check::problem(
            "demo key",
            "the secret key is that of MOR's documentation: anybody can buy",
            "`mortise key rotate --keep 0s`",
        )
    } else {
        Check::ok("demo key", "the secret key isn't that of MOR's documentation")
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
    Check::ok_if_empty("keys", &without, "whoever has the API has a secret key", |names| {
        Check::warning(
            "keys",
            format!("the API is on without a secret key of {names}"),
            "`mortise key set` (--user RESELLER)",
        )
    })
}

fn check_hash_checking(rows: &[ApiSettingRow]) -> Check {
    let off: Vec<String> =
        rows.iter().filter(|row| row.is_enabled("API_Disable_hash_checking")).map(|row| row.owner.clone()).collect();
    Check::ok_if_empty("hashes", &off, "every hash is checked", |names| {
        let says = format!("hashes aren't checked for {names}: who knows a user's name can buy");
        Check::problem("hashes", says, "`mortise setting set API_Disable_hash_checking off` (--user RESELLER)")
    })
}

fn check_get_requests(rows: &[ApiSettingRow]) -> Check {
    if rows.iter().any(|row| row.owner_id == 0 && row.is_enabled("Allow_GET_API")) {
        let says = "GET is on: hashes and PINs stand in URLs, which proxies and browsers keep";
        Check::warning("get", says, "have clients POST, then `mortise setting set Allow_GET_API off`")
    } else {
        Check::ok("get", "GET is off")
    }
}

fn check_previous_keys(rows: &[ApiSettingRow]) -> Check {
    let (mut over, mut counting) = (Vec::new(), Vec::new());
    for row in rows.iter().filter(|row| row.name == "API_Secret_Key_Previous") {
        match row.remaining_seconds() {
            None => over.push(format!("{} (until {:?}, which is no time)", row.owner, row.value2)),
            Some(..=0) => over.push(format!("{} (until {})", row.owner, row.value2)),
            Some(_) => counting.push(format!("{} (until {})", row.owner, row.value2)),
        }
    }
    if !over.is_empty() {
        let says = format!("previous secret keys that don't count any more: {}", join_limited(&over));
        Check::warning("previous key", says, "`mortise key end` (--user RESELLER)")
    } else if !counting.is_empty() {
        Check::ok("previous key", format!("still counts: {}", join_limited(&counting)))
    } else {
        Check::ok("previous key", "there is none")
    }
}
