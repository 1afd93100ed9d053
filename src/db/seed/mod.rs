//! The initial data of a new database: an admin with a secret key. With `--demo` also the users, card groups and cards
//! with which the examples of the published pages work unchanged, and a world of shops with some weeks of sales.

mod demo;
mod world;

use secrecy::{ExposeSecret, SecretString};
use sha1::{Digest, Sha1};
use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::db::DatabaseError;
use crate::managed_postgres::data_directory::random_hex;

/// The secret key in the examples of the published pages.
pub const DEMO_KEY: &str = "456789";

/// The credentials that are shown to the operator once.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct InitialCredentials {
    pub username: &'static str,
    pub secret_key: SecretString,
}

/// Writes the initial data into a database without users and passes the credentials to `show_credentials`. If that
/// fails, nothing is written. Returns `false` if the database has users already: then nothing is changed.
pub async fn seed_if_empty(
    pool: &PgPool,
    demo: bool,
    show_credentials: impl AsyncFnOnce(&InitialCredentials) -> std::io::Result<()>,
) -> Result<bool, DatabaseError> {
    seed(pool, demo, show_credentials).await.map_err(DatabaseError::SeedFailed)
}

async fn seed(
    pool: &PgPool,
    demo: bool,
    show_credentials: impl AsyncFnOnce(&InitialCredentials) -> std::io::Result<()>,
) -> sqlx::Result<bool> {
    let mut transaction = pool.begin().await?;
    let connection = &mut *transaction;
    if has_users(connection).await? {
        return Ok(false);
    }
    // If two servers start on one new database, the second waits for this lock and then finds the admin of the first.
    sqlx::query!("lock table users in share row exclusive mode").execute(&mut *connection).await?;
    if has_users(connection).await? {
        return Ok(false);
    }
    let credentials = match demo {
        true => InitialCredentials { username: "username", secret_key: DEMO_KEY.into() },
        false => InitialCredentials { username: "admin", secret_key: random_secret()?.into() },
    };
    seed_basics(connection, &credentials).await?;
    if demo {
        let pins = demo::generate_pins(demo::PINS + world::PINS, 8)?;
        let (examples, world) = pins.split_at(demo::PINS);
        demo::seed_examples(connection, examples).await?;
        world::seed_world(connection, world).await?;
        reset_sequences(connection).await?;
    }
    show_credentials(&credentials).await?;
    transaction.commit().await?;
    Ok(true)
}

async fn has_users(connection: &mut PgConnection) -> sqlx::Result<bool> {
    Ok(sqlx::query!("select id from users limit 1").fetch_optional(connection).await?.is_some())
}

fn random_secret() -> sqlx::Result<String> {
    random_hex().map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))
}

/// Writes the required rows: the admin, the system's currency, the settings, the names of the rights.
async fn seed_basics(connection: &mut PgConnection, credentials: &InitialCredentials) -> sqlx::Result<()> {
    sqlx::query!("insert into currencies (id, name, full_name) values (1, 'USD', 'United States dollar')")
        .execute(&mut *connection)
        .await?;
    sqlx::query!("insert into currencies (id, name, full_name, exchange_rate, active) values (2, 'EUR', 'Euro', 1, 0)")
        .execute(&mut *connection)
        .await?;
    sqlx::query!("insert into taxes (id, tax1_enabled, tax1_name, total_tax_name) values (1, 1, 'Tax', 'Tax')")
        .execute(&mut *connection)
        .await?;
    // A random password that is not stored in clear text: the operator sets the admin's password.
    sqlx::query!(
        "insert into users (id, username, password, usertype, tax_id, tariff_id, lcr_id) values (0, $1, $2, 'admin', 1, 1, 1)",
        credentials.username,
        hash_sha1(&random_secret()?)
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into conflines (name, value, value2) values
             ('Allow_API', '1', null), ('Allow_GET_API', '0', null), ('API_Secret_Key', $1, null),
             ('XML_API_Extension', '0', null), ('CC_Active', '1', null), ('Nice_Number_Digits', '2', null),
             ('Tax_1', 'Tax', '1'), ('Tax_2', '', '0'), ('Tax_3', '', '0'), ('Tax_4', '', '0'), ('Total_tax_name', 'Tax', null),
             ('Tax_1_Value', '0', null), ('Tax_2_Value', '0', null), ('Tax_3_Value', '0', null), ('Tax_4_Value', '0', null),
             ('Tax_compound', '1', null), ('API_Allow_payments_ower_API', '0', null)",
        credentials.secret_key.expose_secret()
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into acc_rights (name, nice_name, permission_group, right_type) values
             ('Callingcard_manage', 'Callingcard_manage', 'Callingcard', 'accountant'),
             ('Callingcard_PIN', 'Callingcard_PIN', 'Callingcard', 'accountant'),
             ('see_financial_data', 'See_Financial_Data', 'Data', 'accountant'),
             ('Tariff_manage', 'Tariff_manage', 'Tariff', 'accountant'),
             ('calling_cards', 'Calling_Cards', 'Plugins', 'reseller')"
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("insert into tariffs (name, purpose, currency) values ('Default', 'user', 'USD')")
        .execute(&mut *connection)
        .await?;
    sqlx::query!("insert into lcrs (name) values ('Default')").execute(&mut *connection).await?;
    sqlx::query!("insert into locations (name) values ('Global')").execute(&mut *connection).await?;
    reset_sequences(connection).await
}

/// Moves the sequences past the ids that were inserted explicitly.
async fn reset_sequences(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select setval('currencies_id_seq', (select max(id) from currencies)) as currencies,
               setval('taxes_id_seq', (select max(id) from taxes)) as taxes,
               setval('tariffs_id_seq', (select max(id) from tariffs)) as tariffs,
               setval('lcrs_id_seq', (select max(id) from lcrs)) as lcrs,
               setval('users_id_seq', (select greatest(max(id), 1) from users)) as users,
               setval('acc_groups_id_seq', (select greatest(max(id), 1) from acc_groups)) as acc_groups,
               setval('cardgroups_id_seq', (select greatest(max(id), 1) from cardgroups)) as cardgroups"#
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

fn hash_sha1(text: &str) -> String {
    hex::encode(Sha1::digest(text))
}

/// Whether the secret key or the previous key is [`DEMO_KEY`], which is public.
pub async fn has_demo_key(database: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    let row = sqlx::query!(
        "select id from conflines where name in ('API_Secret_Key', 'API_Secret_Key_Previous') and value = $1 limit 1",
        DEMO_KEY
    );
    Ok(row.fetch_optional(database).await?.is_some())
}
