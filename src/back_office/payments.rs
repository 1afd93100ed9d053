//! Payments of cards that the back office writes, with their rows in MOR's audit trail.

use bigdecimal::BigDecimal;
use sqlx::PgConnection;

use super::users::ADMIN_ID;
use crate::store::change_log::Author;

/// Writes the row of `actions` that every payment of a card has. The row names the payment's card. Its user is that of
/// the author, or else the admin, as in MOR.
pub(super) async fn audit_payments(
    connection: &mut PgConnection,
    payment_ids: &[i64],
    author: &Author,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into actions (user_id, action, target_type, target_id, data, data2, data3)
         select $2, 'card_payment_created', 'Payment', id, user_id::text, plain_text(amount), currency
         from payments where id = any ($1) order by id",
        payment_ids,
        author.user_id().unwrap_or(ADMIN_ID)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the payment by which the balance of a card is given up, unless the balance is 0. The caller sets the balance
/// to 0.
pub(super) async fn write_off(
    connection: &mut PgConnection,
    card_id: i64,
    balance: &BigDecimal,
    author: &Author,
) -> sqlx::Result<()> {
    if *balance == 0 {
        return Ok(());
    }
    let id = sqlx::query_scalar!(
        "insert into payments (paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
             shipped_at, description, caller_id, balance_change)
         select 'Card', 'write_off', 0, coalesce(g.tell_balance_in_currency, ''), 0, c.id, g.owner_id, 1, 1,
             now() at time zone 'utc', now() at time zone 'utc', '', $2, -$3::numeric
         from cards c join cardgroups g on g.id = c.cardgroup_id where c.id = $1
         returning id",
        card_id,
        author.user_id(),
        balance
    );
    let id = id.fetch_one(&mut *connection).await?;
    audit_payments(connection, &[id], author).await
}
