//! The data with which the examples of the published pages work unchanged.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::{hash_sha1, random_secret};

/// The number of cards of group 6.
pub(super) const PINS: usize = 10_000;

/// Writes the data of the published examples: card group 6 with ten thousand cards to sell, card group 3 for new cards,
/// a card with the PIN 321, the wholesale tariff 8, the currency EUR, the accountants `user` and `admin`. (The admin is
/// `username`, the user of the first example.)
pub(super) async fn seed_examples(connection: &mut PgConnection, pins: &[String]) -> sqlx::Result<()> {
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
    sqlx::query!(
        "insert into cards (cardgroup_id, number, pin, balance)
         select 6, (1111111000 + row_number() over () - 1)::text, pin, round(10 / 1.19, 15) from unnest($1::text[]) pin",
        pins
    )
    .execute(connection)
    .await?;
    Ok(())
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

/// Returns distinct random PINs of this many digits from the operating system's random source.
pub(super) fn generate_pins(count: usize, length: u32) -> sqlx::Result<Vec<String>> {
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
