//! The creation of a reseller that can create a card group and sell at once.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{BackOfficeError, users};
use crate::store::change_log::{Author, Change, RowChange, Target, What};

/// The permission group of new resellers, unless another one is named.
const PERMISSION_GROUP_DEFAULT: &str = "Resellers";
/// The right of resellers to create card groups and to sell, and its value "edit".
const RIGHT: &str = "calling_cards";
const RIGHT_EDIT: i16 = 2;

/// A reseller to create. Without `Debug`: it has the hash of the password.
pub struct NewReseller<'a> {
    /// The login name.
    pub name: &'a str,
    /// The argon2id hash of the password.
    pub password_argon2: &'a str,
    /// The secret key that signs the reseller's requests.
    pub key: &'a SecretString,
    /// The permission group, which must have the right `calling_cards`. `None`: "Resellers", which is created if it
    /// does not exist.
    pub permission_group: Option<&'a str>,
}

/// What was created.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct CreatedReseller {
    pub id: i32,
    pub permission_group: String,
    pub tariff_id: i64,
    pub lcr_id: i64,
}

/// Creates the user, its rights, a tariff and an LCR of its own, and its API settings with the key, in the caller's
/// transaction. Taxes and currency are copied from the admin, who owns the reseller, as in MOR. The change log gets
/// each row that is created: LCR and taxes are part of the user's row.
///
/// # Errors
///
/// [`BackOfficeError::Refused`] if a user with the name exists, or if the permission group does not permit to sell;
/// [`BackOfficeError::NotFound`] if the named permission group does not exist. Nothing is created then.
pub async fn create(
    connection: &mut PgConnection,
    new: &NewReseller<'_>,
    author: &Author,
) -> Result<CreatedReseller, BackOfficeError> {
    users::lock_name(&mut *connection, new.name).await?;
    let (group_id, permission_group) = ensure_permission_group(&mut *connection, new.permission_group, author).await?;
    let user = sqlx::query!(
        r#"with reseller as (
               insert into users (username, password, password_argon2, usertype, owner_id, acc_group_id, tax_id, currency_id)
               select $1, '', $2, 'reseller', 0, $3,
                   coalesce((select copy_taxes(t) from taxes t where t.id = admin.tax_id), copy_taxes(default_taxes())),
                   admin.currency_id
               from users admin where admin.id = 0
               returning id
           ), tariff as (
               insert into tariffs (name, purpose, owner_id, currency)
               select $1, 'user', id, coalesce((select name from currencies where id = 1), 'USD') from reseller
               returning id
           ), lcr as (
               insert into lcrs (name, user_id) select $1, id from reseller returning id
           ), settings as (
               insert into conflines (name, value, owner_id)
               select setting.name, setting.value, id
               from reseller, (values ('Allow_API', '1'), ('API_Secret_Key', $4)) setting (name, value)
           )
           select reseller.id as "id!", tariff.id as "tariff_id!", lcr.id as "lcr_id!" from reseller, tariff, lcr"#,
        new.name,
        new.password_argon2,
        group_id,
        new.key.expose_secret()
    );
    let user = user.fetch_optional(&mut *connection).await?.ok_or_else(|| {
        BackOfficeError::refused("there is no admin (id 0): `mortise serve` creates it at the first start")
    })?;
    sqlx::query!(
        "update users set tariff_id = $2::bigint, lcr_id = $3::bigint where id = $1",
        user.id,
        user.tariff_id,
        user.lcr_id
    )
    .execute(&mut *connection)
    .await?;
    let details = sqlx::query!(
        r#"select to_jsonb(lcrs)::text as "lcr!", (select to_jsonb(t)::text from taxes t where t.id = u.tax_id) as "taxes!"
           from users u join lcrs on lcrs.id = u.lcr_id where u.id = $1"#,
        user.id
    );
    let details = details.fetch_one(&mut *connection).await?;
    let parse = |json: &str| serde_json::from_str::<Value>(json).map_err(|error| sqlx::Error::Decode(error.into()));
    let details = [("lcr", parse(&details.lcr)?), ("taxes", parse(&details.taxes)?)];
    let details = details.into_iter().map(|(name, row)| (name.to_owned(), row)).collect();
    RowChange::created(What::User, user.id).record_with(&mut *connection, author, details).await?;
    RowChange::created(What::Tariff, user.tariff_id).record(&mut *connection, author).await?;
    let target = Target::Row { id: user.id.into(), name: "Allow_API" };
    let after = Some(json!({ "value": "1" }).to_string());
    Change { what: What::Setting, target, before: None, after }.record(&mut *connection, author).await?;
    let target = Target::Row { id: user.id.into(), name: new.name };
    let after = Some(json!({ "key": "created" }).to_string());
    Change { what: What::Key, target, before: None, after }.record(connection, author).await?;
    Ok(CreatedReseller { id: user.id, permission_group, tariff_id: user.tariff_id, lcr_id: user.lcr_id })
}

/// Returns the id and the name of the permission group. It creates the default group, but does not change an existing
/// group: other users may be in it.
async fn ensure_permission_group(
    connection: &mut PgConnection,
    name: Option<&str>,
    author: &Author,
) -> Result<(i32, String), BackOfficeError> {
    sqlx::query!("lock table acc_groups, acc_group_rights in share row exclusive mode")
        .execute(&mut *connection)
        .await?;
    let wanted = name.unwrap_or(PERMISSION_GROUP_DEFAULT);
    let group = sqlx::query!(
        r#"select g.id, g.name, g.group_type, coalesce((
               select v.value from acc_group_rights v join acc_rights r on r.id = v.acc_right_id
               where v.acc_group_id = g.id and lower(r.name) = $2 order by v.id limit 1), 0::smallint) as "right!"
           from acc_groups g where fold_case(g.name) = fold_case($1) order by g.id limit 1"#,
        wanted,
        RIGHT
    );
    match group.fetch_optional(&mut *connection).await? {
        Some(group) if group.group_type != "reseller" => Err(BackOfficeError::Refused(format!(
            "the permission group {} is for users of the type {}: name another one with --rights",
            group.name, group.group_type
        ))),
        Some(group) if group.right < RIGHT_EDIT => Err(BackOfficeError::Refused(format!(
            "the permission group {0} does not permit to sell: run `mortise right set {0:?} {RIGHT} edit`, or name \
             another one with --rights",
            group.name
        ))),
        Some(group) => Ok((group.id, group.name)),
        None if name.is_some() => Err(BackOfficeError::NotFound(format!(
            "there is no permission group {wanted:?}: `mortise right list` shows all"
        ))),
        None => Ok((create_permission_group(connection, author).await?, wanted.to_owned())),
    }
}

/// Creates the default permission group, and the right if the database does not have it.
async fn create_permission_group(connection: &mut PgConnection, author: &Author) -> sqlx::Result<i32> {
    let new_rights = sqlx::query!(
        "insert into acc_rights (name, nice_name, permission_group, right_type)
         select $1, 'Calling_Cards', 'Plugins', 'reseller'
         where not exists (select from acc_rights where lower(name) = $1)",
        RIGHT
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let id = sqlx::query_scalar!(
        "insert into acc_groups (name, group_type) values ($1, 'reseller') returning id",
        PERMISSION_GROUP_DEFAULT
    );
    let id = id.fetch_one(&mut *connection).await?;
    sqlx::query!(
        "insert into acc_group_rights (acc_group_id, acc_right_id, value)
         select $1, id, $3 from acc_rights where lower(name) = $2",
        id,
        RIGHT,
        RIGHT_EDIT
    )
    .execute(&mut *connection)
    .await?;
    let target = Target::Row { id: id.into(), name: PERMISSION_GROUP_DEFAULT };
    let mut after = json!({ RIGHT: RIGHT_EDIT, "permission_group": PERMISSION_GROUP_DEFAULT, "type": "reseller" });
    if new_rights > 0 {
        after["new_right"] = json!(RIGHT);
    }
    let after = Some(after.to_string());
    Change { what: What::Right, target, before: None, after }.record(connection, author).await?;
    Ok(id)
}
