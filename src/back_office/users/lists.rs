//! What commands and the console show of users.

use serde::Serialize;
use sqlx::PgExecutor;

use crate::accounts::UserType;

/// Which users are listed.
#[derive(Debug, Default)]
pub struct UserFilter<'a> {
    /// Only users of this type.
    pub kind: Option<UserType>,
    /// Only users whose name contains this text; letter case is ignored.
    pub name: Option<&'a str>,
    /// Only users with a higher id.
    pub after: Option<i32>,
    /// Maximum number of users. `None`: all.
    pub limit: Option<i64>,
}

/// A user in a list.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct ListedUser {
    pub id: i32,
    pub username: String,
    pub r#type: String,
    pub owner: Option<String>,
    pub rights: Option<String>,
    /// Blocked or hidden.
    pub blocked: bool,
    /// The stored hashes: `argon2id`, `sha1`, `both` or `none`.
    pub password: String,
    #[serde(skip)]
    pub is_hidden: bool,
    /// Whether the owner of the user's settings has a secret key.
    #[serde(skip)]
    pub has_key: bool,
}

/// Returns users in the order of their ids.
///
/// # Errors
///
/// Database errors.
pub async fn list(executor: impl PgExecutor<'_>, filter: &UserFilter<'_>) -> sqlx::Result<Vec<ListedUser>> {
    sqlx::query_as!(
        ListedUser,
        r#"select u.id, u.username, u.usertype as "type", owner.username as "owner?", g.name as "rights?",
               u.blocked = 1 or coalesce(u.hidden, 0) = 1 as "blocked!", coalesce(u.hidden, 0) = 1 as "is_hidden!",
               case when u.password_argon2 is not null and u.password <> '' then 'both'
                   when u.password_argon2 is not null then 'argon2id'
                   when u.password <> '' then 'sha1' else 'none' end as "password!",
               exists (
                   select from conflines c
                   where c.owner_id = case
                           when u.usertype in ('admin', 'accountant') then 0
                           when u.usertype = 'reseller' then u.id
                           else coalesce(u.owner_id, 0) end
                       and c.name = 'API_Secret_Key' and c.value <> ''
               ) as "has_key!"
           from users u
           left join users owner on owner.id = u.owner_id and u.id <> 0
           left join acc_groups g on g.id = u.acc_group_id
           where ($1::text is null or u.usertype = $1) and u.id > coalesce($3::integer, -1)
               and ($2::text is null or strpos(fold_case(u.username), fold_case($2)) > 0)
           order by u.id limit $4"#,
        filter.kind.map(UserType::name),
        filter.name,
        filter.after,
        filter.limit
    )
    .fetch_all(executor)
    .await
}

/// A user with what belongs to it.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct UserDetails {
    pub id: i32,
    pub username: String,
    pub usertype: String,
    pub owner_id: i32,
    pub owner: Option<String>,
    pub permission_group: Option<String>,
    pub is_blocked: bool,
    pub is_hidden: bool,
    pub has_argon2: bool,
    pub has_sha1: bool,
    pub tariff: Option<String>,
    pub lcr: Option<String>,
    pub currency: Option<String>,
    /// The owner of the settings and the key that apply to the user.
    pub settings_owner_id: i32,
    pub settings_owner: Option<String>,
    pub allows_api: bool,
    pub has_key: bool,
    /// The time (UTC) until which the previous key is valid.
    pub previous_key_until: Option<String>,
}

/// Reads a user.
///
/// # Errors
///
/// Database errors.
pub async fn load_details(executor: impl PgExecutor<'_>, id: i32) -> sqlx::Result<Option<UserDetails>> {
    sqlx::query_as!(
        UserDetails,
        r#"select u.id, u.username, u.usertype, coalesce(u.owner_id, 0) as "owner_id!",
               (select username from users where id = u.owner_id and u.id <> 0) as owner,
               (select name from acc_groups where id = u.acc_group_id) as permission_group,
               u.blocked = 1 as "is_blocked!", coalesce(u.hidden, 0) = 1 as "is_hidden!",
               u.password_argon2 is not null as "has_argon2!", u.password <> '' as "has_sha1!",
               (select name from tariffs where id = u.tariff_id) as tariff, (select name from lcrs where id = u.lcr_id) as lcr,
               (select name from currencies where id = u.currency_id) as currency,
               settings.owner_id as "settings_owner_id!", (select username from users where id = settings.owner_id) as settings_owner,
               coalesce((
                   select value = '1' from conflines
                   where owner_id = settings.owner_id and name = 'Allow_API' order by id limit 1), false) as "allows_api!",
               coalesce((
                   select value <> '' from conflines
                   where owner_id = settings.owner_id and name = 'API_Secret_Key' order by id limit 1), false) as "has_key!",
               (
                   select value2 from conflines
                   where owner_id = settings.owner_id and name = 'API_Secret_Key_Previous' and value <> ''
                       and value2 > to_char(now() at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')
                   order by id limit 1
               ) as previous_key_until
           from users u, lateral (
               select case
                   when u.usertype in ('admin', 'accountant') then 0
                   when u.usertype = 'reseller' then u.id
                   else coalesce(u.owner_id, 0) end as owner_id) settings
           where u.id = $1"#,
        id
    )
    .fetch_optional(executor)
    .await
}
