//! SQL on one card and its group that several operations share: top-ups, transfers of balances, retirement.
//!
//! Cards are always locked in the order of number, then id; users are locked after cards.

use bigdecimal::BigDecimal;
use sqlx::PgConnection;

use crate::money::Money;
use crate::pin::Pin;

/// A locked card, and the values of its group that operations need.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct LockedCard {
    pub id: i64,
    pub cardgroup_id: i32,
    pub owner_id: i32,
    pub sold: bool,
    pub callerid: Option<String>,
    pub pin: Option<Pin>,
    pub balance: BigDecimal,
    /// Whether the group is not hidden.
    pub group_visible: bool,
    /// The validation error with which MOR would refuse to save the card.
    pub validation_error: Option<String>,
    /// Whether the card may be used: it is neither blocked nor quarantined.
    pub usable: bool,
    /// The rate from the system's currency to the group's; 0 if it is unknown.
    pub group_rate: BigDecimal,
    /// The group's taxes as a fraction of the net amount.
    pub tax_rate: BigDecimal,
}

/// Locks and returns the cards that have the caller id or the PIN, and are neither hidden nor retired.
///
/// After a wait for a lock, PostgreSQL checks only the conditions of the outer select again, not those of the inner
/// ones.
pub async fn lock_matching(
    connection: &mut PgConnection,
    callerid: &str,
    pin: Option<&Pin>,
) -> sqlx::Result<Vec<LockedCard>> {
    sqlx::query_as!(
        LockedCard,
        r#"select c.id, c.cardgroup_id, coalesce(c.owner_id, 0) as "owner_id!", c.sold = 1 as "sold!", c.callerid,
               c.pin as "pin: Pin",
               coalesce(c.balance, 0) as "balance!", g.hidden = 0 as "group_visible!",
               case
                   when length(c.number) is distinct from g.number_length then 'Bad number length should be: ' || g.number_length
                   when btrim(coalesce(c.pin, '')) = '' then 'Card PIN is blank'
                   when length(c.pin) <> g.pin_length then 'Bad PIN length should be: ' || g.pin_length
                   when c.min_balance < 0 then 'Bad minimal balance'
               end as validation_error,
               c.withheld is distinct from 'blocked' and c.quarantined_at is null as "usable!",
               exchange_rate_to(g.tell_balance_in_currency) as "group_rate!", effective_tax_rate(g.tax_id, g.owner_id) as "tax_rate!"
           from cards c join cardgroups g on g.id = c.cardgroup_id
           where c.hidden = 0 and c.retired_at is null and c.id = any (array(
               select id from cards where callerid <> '' and callerid = $1
               union all
               select id from cards where pin <> '' and pin = $2 and hidden = 0 and quarantined_at is null))
           order by c.number collate "C", c.id
           for no key update of c"#,
        callerid,
        pin.map(Pin::expose)
    )
    .fetch_all(connection)
    .await
}

/// The rates, formats and texts with which amounts become balances, payments and audit rows.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// The caller's id, for audit rows.
    pub user_id: i32,
    /// The caller's currency rate if the dialect multiplies by it, else 1.
    pub caller_rate: BigDecimal,
    /// Decimal places of a "nice" amount.
    pub nice_digits: usize,
    /// The client's reference, for the payments.
    pub reference: Option<String>,
}

/// Adds an amount in the group's currency, tax included, to the card's balance, and writes the payment.
pub async fn top_up(
    connection: &mut PgConnection,
    card_id: i64,
    amount: &BigDecimal,
    conversion: &Conversion,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with cardgroup as materialized (
             select g.owner_id, coalesce(g.tell_balance_in_currency, '') as currency, effective_tax_rate(g.tax_id, g.owner_id) as tax_rate,
                 divide_rounded($2, (1 + effective_tax_rate(g.tax_id, g.owner_id)) * exchange_rate_to(g.tell_balance_in_currency) * $3::numeric)
                     as added
             from cards c join cardgroups g on g.id = c.cardgroup_id where c.id = $1
         ), topped_up as (
             update cards set balance = coalesce(balance, 0) + cardgroup.added from cardgroup where cards.id = $1
         ), payment as (
             insert into payments (paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added, shipped_at, description,
                 caller_id, balance_change, reference)
             select 'Card', 'top_up', divide_rounded($2, 1 + tax_rate), currency, divide_rounded($2, 1 + tax_rate) * tax_rate, $1, owner_id,
                 1, 1, now() at time zone 'utc', now() at time zone 'utc', '', $4, added, $5
             from cardgroup
             returning id, amount, currency
         )
         insert into actions (user_id, action, target_type, target_id, data, data2, data3)
         select $4, 'card_payment_created', 'Payment', id, $1::bigint::text, plain_text(amount), currency from payment",
        card_id,
        amount,
        conversion.caller_rate,
        conversion.user_id,
        conversion.reference
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Changes a card's balance by an amount that is moved from or to another row of the database.
pub async fn change_balance(connection: &mut PgConnection, card_id: i64, change: &BigDecimal) -> sqlx::Result<()> {
    sqlx::query!("update cards set balance = coalesce(balance, 0) + $2 where id = $1", card_id, change)
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes the audit row of a [`change_balance`].
pub async fn audit_balance_change(
    connection: &mut PgConnection,
    card_id: i64,
    change: &BigDecimal,
    conversion: &Conversion,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into actions (user_id, action, target_type, target_id, data) values ($1, 'Added to cards balance', 'card', $2, $3)",
        conversion.user_id,
        card_id,
        Money::from(change * &conversion.caller_rate).to_fixed_string(conversion.nice_digits)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Retires a card, for example after its balance was moved to another card: it has balance 0, is never sold again, and
/// has no caller id.
pub async fn retire(connection: &mut PgConnection, card_id: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update cards set balance = 0, sold = 0, callerid = null, retired_at = now() at time zone 'utc' where id = $1",
        card_id
    )
    .execute(connection)
    .await?;
    Ok(())
}
