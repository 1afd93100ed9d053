//! E-mails to buyers that are not sent yet.

use sqlx::PgConnection;

/// Takes cards out of the e-mails of their sales that are not sent, and deletes an e-mail that has no card left.
/// Returns the ids of the e-mails. An e-mail has the time of the payment of its sale.
pub(super) async fn remove_cards_from_mails(connection: &mut PgConnection, card_ids: &[i64]) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        r#"with sale as materialized (
               select user_id as card_id, date_added as sold_at from payments where user_id = any ($1) and kind = 'sale'
           ), mail as materialized (
               select m.id,
                   array(
                       select card_id from unnest(m.card_ids) with ordinality card (card_id, position)
                       where card_id <> all ($1) order by position
                   ) as card_ids,
                   array(
                       select balance from unnest(m.card_ids, m.balances) with ordinality card (card_id, balance, position)
                       where card_id <> all ($1) order by position
                   ) as balances
               from email_outbox m
               where m.created_at = any (array(select sold_at from sale)) and m.sent_at is null
                   and m.card_ids && array(select card_id from sale)
               order by m.id + 0 for no key update
           ), deleted as (
               delete from email_outbox where id = any (array(select id from mail where card_ids = '{}')) returning id
           ), changed as (
               update email_outbox set card_ids = mail.card_ids, balances = mail.balances
               from mail where email_outbox.id = mail.id and mail.card_ids <> '{}' returning email_outbox.id
           )
           select id as "id!" from deleted union all select id from changed"#,
        card_ids
    )
    .fetch_all(connection)
    .await
}
