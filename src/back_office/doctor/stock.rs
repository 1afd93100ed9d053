//! Checks of the stock, of PINs and of the cards left for sale.

use bigdecimal::BigDecimal;
use sqlx::PgConnection;

use super::{Check, join_limited};
use crate::store::bulk_create;

/// With fewer cards, a group will soon be sold out.
const LOW_STOCK_THRESHOLD: i64 = 100;

/// Checks that `card_stock` matches `cards`.
pub async fn check_stock(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from card_stock_differences limit 1000) differences"#
    );
    let count = count.fetch_one(connection).await?;
    Ok(if count == 0 {
        Check::ok("stock", "the stock matches the cards")
    } else {
        let message = format!("{count} cards are in stock but cannot be sold, or can be sold but are not in stock");
        let advice = "run `mortise cards check --repair`, also while the server sells";
        Check::problem("stock", message, advice)
    })
}

/// Checks how many PINs are still available, for each PIN length.
pub async fn check_pins(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let lengths = sqlx::query!(
        r#"with used as materialized (select length(pin) as length, count(*) as count from cards where pin <> '' group by 1)
           select g.pin_length, array_agg(g.id::text order by g.id) as "groups!", coalesce(max(used.count), 0) as "used!"
           from cardgroups g left join used on used.length = g.pin_length
           where g.hidden = 0 group by g.pin_length order by g.pin_length"#
    );
    let lengths = lengths.fetch_all(connection).await?;
    let (mut exhausted, mut low, mut ok) = (Vec::new(), Vec::new(), Vec::new());
    for row in lengths {
        let capacity = bulk_create::pin_capacity(row.pin_length);
        let used = BigDecimal::from(row.used);
        let free = (&capacity - &used).max(BigDecimal::from(0)).with_scale(0).to_plain_string();
        let message = format!("{free} PINs of {} digits (groups {})", row.pin_length, join_limited(&row.groups));
        let list = if used >= capacity {
            &mut exhausted
        } else if &used * 5 >= &capacity * 4 {
            &mut low
        } else {
            ok.push(free + &format!(" of {} digits", row.pin_length));
            continue;
        };
        list.push(message);
    }
    let advice = "create card groups with longer PINs: PINs can be guessed if more than a fifth of a length is in use";
    Ok(if !exhausted.is_empty() {
        Check::problem("pins", format!("no more cards can be created: {} left", join_limited(&exhausted)), advice)
    } else if !low.is_empty() {
        Check::warning("pins", format!("only {} left", join_limited(&low)), advice)
    } else {
        Check::ok(
            "pins",
            if ok.is_empty() { "no card groups".to_owned() } else { format!("PINs left: {}", join_limited(&ok)) },
        )
    })
}

/// Finds groups with sales and fewer than 100 cards left.
pub async fn check_remaining_cards(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let low = sqlx::query_scalar!(
        r#"with free as materialized (select cardgroup_id, count(*) as count from card_stock group by cardgroup_id)
           select 'group ' || g.id || ' (' || g.name || '): ' || coalesce(free.count, 0) as "low!"
           from cardgroups g left join free on free.cardgroup_id = g.id
           where g.hidden = 0 and coalesce(free.count, 0) < $1
               and exists (select from cclineitems i where i.cardgroup_id = g.id
                           union all select from cards c where c.cardgroup_id = g.id and c.hidden = 0
                               and c.quarantined_at is null and c.sold = 1 and coalesce(c.callerid, '') = '')
           order by free.count nulls first, g.id"#,
        LOW_STOCK_THRESHOLD
    );
    let low = low.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("cards", &low, "every group with sales has at least 100 cards left", |names| {
        let advice = "run `mortise cards generate --group ID --quantity N`";
        Check::warning("cards", format!("few cards left: {names}"), advice)
    }))
}

/// Finds groups whose time is over and whose cards are still sold: MOR's switch refuses calls with such a card.
pub async fn check_expired_groups(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let expired = sqlx::query_scalar!(
        r#"select 'group ' || g.id || ' (' || g.name || '): ' || to_char(g.valid_till, 'YYYY-MM-DD') as "expired!"
           from cardgroups g
           where g.hidden = 0 and g.valid_till < now() at time zone 'utc'
               and exists (select from card_stock s where s.cardgroup_id = g.id)
           order by g.valid_till, g.id"#
    );
    let expired = expired.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("validity", &expired, "no expired group has cards for sale", |names| {
        let message = format!("groups that have expired and still sell: {names}");
        let advice =
            "change valid_till with cc_group_update, or hide the group; `mortise report stock` shows the others";
        Check::warning("validity", message, advice)
    }))
}
