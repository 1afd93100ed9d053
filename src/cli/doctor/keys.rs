//! Who is let in: the settings in the database that open doors.

use sqlx::{PgConnection, PgPool};

use super::{Check, listed};
use crate::db::seed;
use crate::number;

/// An owner's setting.
struct Row {
    owner: String,
    owner_id: i32,
    name: String,
    value: String,
    /// Of a previous key: until when it counts.
    value2: String,
    now: i64,
}

impl Row {
    fn is_on(&self, name: &str) -> bool {
        self.name == name && number::integer(&self.value) == 1
    }

    /// The seconds that a previous key still counts; `None` where that can't be read.
    fn seconds_left(&self) -> Option<i64> {
        let until = humantime::parse_rfc3339_weak(self.value2.trim()).ok()?;
        let until = until.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?.as_secs();
        Some(i64::try_from(until).ok()? - self.now)
    }
}

/// The checks of all owners' settings.
pub async fn all(pool: &PgPool, connection: &mut PgConnection) -> sqlx::Result<Vec<Check>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select distinct on (c.owner_id, c.name) coalesce(u.username, 'user ' || c.owner_id) as "owner!", coalesce(c.owner_id, 0) as "owner_id!",
               c.name as "name!", coalesce(c.value, '') as "value!", coalesce(c.value2, '') as "value2!",
               extract(epoch from now())::bigint as "now!"
           from conflines c left join users u on u.id = c.owner_id
           where c.name in ('Allow_API', 'Allow_GET_API', 'API_Secret_Key', 'API_Secret_Key_Previous', 'API_Disable_hash_checking')
           order by c.owner_id, c.name, c.id"#
    );
    let rows = rows.fetch_all(connection).await?;
    let public = seed::has_public_key(pool).await?;
    Ok(vec![public_key(public), keys(&rows), unchecked(&rows), get(&rows), previous(&rows)])
}

fn public_key(is_public: bool) -> Check {
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

fn keys(rows: &[Row]) -> Check {
    let has_key =
        |owner| rows.iter().any(|row| row.owner_id == owner && row.name == "API_Secret_Key" && !row.value.is_empty());
    let without: Vec<String> = rows
        .iter()
        .filter(|row| row.is_on("Allow_API") && !has_key(row.owner_id))
        .map(|row| row.owner.clone())
        .collect();
    Check::none_of("keys", &without, "whoever has the API has a secret key", |names| {
        Check::warning(
            "keys",
            format!("the API is on without a secret key of {names}"),
            "`mortise key set` (--user RESELLER)",
        )
    })
}

fn unchecked(rows: &[Row]) -> Check {
    let off: Vec<String> =
        rows.iter().filter(|row| row.is_on("API_Disable_hash_checking")).map(|row| row.owner.clone()).collect();
    Check::none_of("hashes", &off, "every hash is checked", |names| {
        let says = format!("hashes aren't checked for {names}: who knows a user's name can buy");
        Check::problem("hashes", says, "`mortise setting set API_Disable_hash_checking off` (--user RESELLER)")
    })
}

fn get(rows: &[Row]) -> Check {
    if rows.iter().any(|row| row.owner_id == 0 && row.is_on("Allow_GET_API")) {
        let says = "GET is on: hashes and PINs stand in URLs, which proxies and browsers keep";
        Check::warning("get", says, "have clients POST, then `mortise setting set Allow_GET_API off`")
    } else {
        Check::ok("get", "GET is off")
    }
}

fn previous(rows: &[Row]) -> Check {
    let (mut over, mut counting) = (Vec::new(), Vec::new());
    for row in rows.iter().filter(|row| row.name == "API_Secret_Key_Previous") {
        match row.seconds_left() {
            None => over.push(format!("{} (until {:?}, which is no time)", row.owner, row.value2)),
            Some(..=0) => over.push(format!("{} (until {})", row.owner, row.value2)),
            Some(_) => counting.push(format!("{} (until {})", row.owner, row.value2)),
        }
    }
    if !over.is_empty() {
        let says = format!("previous secret keys that don't count any more: {}", listed(&over));
        Check::warning("previous key", says, "`mortise key end` (--user RESELLER)")
    } else if !counting.is_empty() {
        Check::ok("previous key", format!("still counts: {}", listed(&counting)))
    } else {
        Check::ok("previous key", "there is none")
    }
}
