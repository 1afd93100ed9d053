//! Finds and locks the cards of a sale that waits for other sales.

use sqlx::PgConnection;

use crate::error::ApiError;
use crate::store::stock::recheck_stock;

/// A card that may be sold. Its row is locked.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: i64,
    /// Also if a sale payment exists.
    pub(super) sold: bool,
    /// Whether an X7 server sells it.
    pub(super) sellable: bool,
}

/// Locks the group's card whose number has this value. Leading zeros are ignored; numbers have at most 255 digits.
/// Each number is looked up on its own: for a list of numbers, the planner could read the whole group. The outer
/// conditions are checked again after a wait for the lock: the card can have another number or group then. "+ 0" makes
/// the planner look up the card by its id; otherwise it reads an index of all cards in use.
pub(super) async fn lock_by_number(
    connection: &mut PgConnection,
    group: i32,
    digits: &str,
) -> Result<Candidate, ApiError> {
    let card = sqlx::query_as!(
        Candidate,
        r#"select c.id, c.sold = 1 or has_sale_payment(c) as "sold!", is_sellable(c, g.pin_length, g.number_length) as "sellable!"
           from cards c join cardgroups g on g.id = c.cardgroup_id
           where c.hidden + 0 = 0 and c.retired_at is null and c.withheld is null and c.quarantined_at is null
               and c.cardgroup_id + 0 = $1 and ltrim(c.number, '0') = ltrim($2, '0') and c.id = (
               select min(found.id)
               from generate_series(length($2), greatest(length($2), 255)) length, lateral (
                   select id from cards
                   where cardgroup_id = $1 and number = lpad($2, length, '0') and hidden = 0 and quarantined_at is null
                       and retired_at is null and withheld is null
                   offset 0
               ) found
           )
           for no key update of c"#,
        group,
        digits
    )
    .fetch_optional(connection)
    .await?
    .ok_or(ApiError::FreeCardsNotFound)?;
    if card.sold { Err(ApiError::CardAlreadySold) } else { Ok(card) }
}

/// Locks the next free cards: as many as requested, or all free cards if there are fewer. Takes cards that have a sale
/// payment out of stock. A stock row with another number than its card is skipped: `recheck_stock` does not delete it.
pub(super) async fn lock_next_free(
    connection: &mut PgConnection,
    group: i32,
    quantity: u32,
) -> Result<Vec<Candidate>, ApiError> {
    loop {
        let cards = sqlx::query_as!(
            Candidate,
            r#"select c.id, has_sale_payment(c) as "sold!", is_sellable(c, g.pin_length, g.number_length) as "sellable!"
               from card_stock s join cards c on c.id = s.card_id join cardgroups g on g.id = c.cardgroup_id
               where s.cardgroup_id = $1 and c.cardgroup_id + 0 = $1 and is_in_stock(c) and c.number = s.number
               order by s.number, s.card_id limit $2
               for no key update of c"#,
            group,
            i64::from(quantity)
        )
        .fetch_all(&mut *connection)
        .await?;
        let paid: Vec<i64> = cards.iter().filter(|card| card.sold).map(|card| card.id).collect();
        if paid.is_empty() {
            return if cards.is_empty() { Err(ApiError::FreeCardsNotFound) } else { Ok(cards) };
        }
        recheck_stock(connection, &paid).await?;
        tracing::warn!(group, cards = paid.len(), "paid cards removed from the stock");
    }
}
