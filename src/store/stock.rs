//! The stock of free cards, table `card_stock`.

use sqlx::PgConnection;

/// The unique index that permits one sale payment per card.
const SALE_PAYMENT_INDEX: &str = "payments_sale_card_unique";

/// Whether a sale failed because a card that it picked has a sale payment already, which was inserted by hand.
/// (Triggers keep the stock right when a payment is changed or deleted, but a trigger for inserted payments would slow
/// down every sale.)
pub fn is_card_already_paid(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.constraint()) == Some(SALE_PAYMENT_INDEX)
}

/// Makes the stock rows of these cards agree with the cards and their payments. Each card is locked first, in the order
/// given, as in a sale.
pub async fn recheck_stock(connection: &mut PgConnection, card_ids: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select card_stock_recheck(id)::text as "rechecked"
           from (select id from unnest($1::bigint[]) with ordinality card (id, position) order by position) ordered"#,
        card_ids
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}
