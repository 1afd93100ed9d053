//! The initial data of a new database: an admin with a secret key. With `--demo` also the users, card groups and cards
//! with which the examples of the published pages work unchanged.

use std::collections::HashSet;

use secrecy::{ExposeSecret, SecretString};
use sha1::{Digest, Sha1};
use sqlx::{PgConnection, PgPool};

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
        seed_demo(connection).await?;
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

/// Writes the data of the published examples: card group 6 with ten thousand cards to sell, card group 3 for new cards,
/// a card with the PIN 321, the wholesale tariff 8, the currency EUR, the accountants `user` and `admin`. (The admin is
/// `username`, the user of the first example.)
async fn seed_demo(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("update conflines set value = '1' where name = 'API_Allow_payments_ower_API'")
        .execute(&mut *connection)
        .await?;
    sqlx::query!("update currencies set exchange_rate = 0.92, active = 1 where name = 'EUR'")
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "insert into tariffs (id, name, purpose, currency) values (8, 'Published example', 'user_wholesale', 'USD')"
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("insert into acc_groups (id, name, group_type) values (1, 'Card shop', 'accountant')")
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "insert into acc_group_rights (acc_group_id, acc_right_id, value)
         select 1, id, 2 from acc_rights where right_type = 'accountant'"
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into users (id, username, password, usertype, tax_id, tariff_id, lcr_id, acc_group_id)
         values (2, 'user', $1, 'accountant', 1, 1, 1, 1), (3, 'admin', $2, 'accountant', 1, 1, 1, 1)",
        hash_sha1("user1"),
        hash_sha1(&random_secret()?)
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into taxes (id, tax1_enabled, tax1_name, total_tax_name, tax1_value) values (2, 1, 'VAT', 'VAT', 19)"
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into cardgroups (id, name, description, price, tariff_id, lcr_id, created_at, valid_from, valid_till,
             number_length, pin_length, tax_id, tell_balance_in_currency)
         select id, name, description, price, 1, 1, now(), now(), now() + interval '10 years', 10, pin_length, 2, 'USD'
         from (values (3, 'Caller ID cards', 'Made for a caller ID when it is topped up', 0::numeric, 8),
                      (4, 'Short PIN cards', 'A card whose balance a caller ID can get', round(10 / 1.19, 15), 3),
                      (6, 'Ten dollar cards', 'Ten dollars of calls, 19 % VAT included', round(10 / 1.19, 15), 8))
             demo (id, name, description, price, pin_length)"
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into cards (cardgroup_id, number, pin, balance) values (4, '1111110321', '321', round(10 / 1.19, 15))"
    )
    .execute(&mut *connection)
    .await?;
    seed_demo_rates(connection).await?;
    let pins = generate_pins(10_000, 8)?;
    sqlx::query!(
        "insert into cards (cardgroup_id, number, pin, balance)
         select 6, (1111111000 + row_number() over () - 1)::text, pin, round(10 / 1.19, 15) from unnest($1::text[]) pin",
        &pins
    )
    .execute(&mut *connection)
    .await?;
    reset_sequences(connection).await
}

/// Writes a retail price of the tariff 1 and a wholesale price of the tariff 8, both for Lithuania, and a user with the
/// tariff 1.
async fn seed_demo_rates(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("insert into conflines (name, value) values ('Devices_Check_Rate', '1')")
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "insert into users (id, username, password, usertype, tax_id, tariff_id, lcr_id)
         values (4, 'customer', $1, 'user', 1, 1, 1)",
        hash_sha1(&random_secret()?)
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("insert into directions (name, code, iso31661code) values ('Lithuania', 'LTU', '440')")
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "with destination_group as (
             insert into destinationgroups (name, flag) values ('Lithuania - Fixed', 'ltu') returning id),
         destination as (
             insert into destinations (prefix, direction_code, subcode, name, destinationgroup_id)
             select '370', 'LTU', 'FIX', 'Lithuania - Fixed', id from destination_group returning id),
         wholesale_rate as (
             insert into rates (tariff_id, prefix, destination_id) select 8, '370', id from destination returning id),
         wholesale_price as (insert into ratedetails (rate_id, rate) select id, 0.015 from wholesale_rate),
         retail_rate as (
             insert into rates (tariff_id, destinationgroup_id) select 1, id from destination_group returning id)
         insert into aratedetails (rate_id, \"from\", duration, artype, round, price)
         select id, 1, -1, 'minute', 1, 0.02 from retail_rate"
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Moves the sequences past the ids that were inserted explicitly.
async fn reset_sequences(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select setval('currencies_id_seq', (select max(id) from currencies)) as currencies,
               setval('taxes_id_seq', (select max(id) from taxes)) as taxes,
               setval('tariffs_id_seq', (select max(id) from tariffs)) as tariffs,
               setval('users_id_seq', (select greatest(max(id), 1) from users)) as users,
               setval('acc_groups_id_seq', (select greatest(max(id), 1) from acc_groups)) as acc_groups,
               setval('cardgroups_id_seq', (select greatest(max(id), 1) from cardgroups)) as cardgroups"#
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// Returns distinct random PINs from the operating system's random source.
fn generate_pins(count: usize, length: u32) -> sqlx::Result<Vec<String>> {
    let range = 10_u64.pow(length);
    let mut pins = HashSet::with_capacity(count);
    while pins.len() < count {
        let random = getrandom::u64().map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
        // Values from the incomplete last range are rejected, so that all PINs are equally likely.
        if random < u64::MAX - u64::MAX % range {
            pins.insert(format!("{:0width$}", random % range, width = length as usize));
        }
    }
    Ok(pins.into_iter().collect())
}

fn hash_sha1(text: &str) -> String {
    hex::encode(Sha1::digest(text))
}

/// Whether the secret key or the previous key is [`DEMO_KEY`], which is public.
pub async fn has_demo_key(pool: &PgPool) -> sqlx::Result<bool> {
    let row = sqlx::query!(
        "select id from conflines where name in ('API_Secret_Key', 'API_Secret_Key_Previous') and value = $1 limit 1",
        DEMO_KEY
    );
    Ok(row.fetch_optional(pool).await?.is_some())
}
