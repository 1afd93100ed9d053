//! Cards: what can be sold, and what can be made.

use bigdecimal::BigDecimal;
use sqlx::PgConnection;

use super::{Check, join_limited};
use crate::store::bulk_create;

/// So few cards are left of a group that it will soon be sold out.
const LOW_STOCK_THRESHOLD: i64 = 100;

/// The stock must be what the cards say.
pub async fn check_stock(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from card_stock_differences limit 1000) differences"#
    );
    let count = count.fetch_one(connection).await?;
    Ok(if count == 0 {
        Check::ok("stock", "the stock is what the cards say")
    } else {
        let says = format!("{count} cards are in stock and shouldn't be, or aren't and should");
        Check::problem("stock", says, "stop selling, keep `select * from card_stock_differences`, call us")
    })
}

/// How much of the PINs that may be given out is used, by length.
pub async fn check_pins(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let lengths = sqlx::query!(
        r#"with used as materialized (select length(pin) as length, count(*) as count from cards where pin <> '' group by 1)
           select g.pin_length, array_agg(g.id::text order by g.id) as "groups!", coalesce(max(used.count), 0) as "used!"
           from cardgroups g left join used on used.length = g.pin_length
           where g.hidden = 0 group by g.pin_length order by g.pin_length"#
    );
    let lengths = lengths.fetch_all(connection).await?;
    let (mut full, mut nearly, mut fine) = (Vec::new(), Vec::new(), Vec::new());
    for row in lengths {
        let most = bulk_create::pin_capacity(row.pin_length);
        let used = BigDecimal::from(row.used);
        let free = (&most - &used).max(BigDecimal::from(0)).with_scale(0).to_plain_string();
        let says = format!("{free} PINs of {} digits (groups {})", row.pin_length, join_limited(&row.groups));
        let heap = if used >= most {
            &mut full
        } else if &used * 5 >= &most * 4 {
            &mut nearly
        } else {
            fine.push(free + &format!(" of {} digits", row.pin_length));
            continue;
        };
        heap.push(says);
    }
    let advice = "make card groups with longer PINs: over a fifth of a length in use, and PINs can be guessed";
    Ok(if !full.is_empty() {
        Check::problem("pins", format!("no more cards can be made: {} left", join_limited(&full)), advice)
    } else if !nearly.is_empty() {
        Check::warning("pins", format!("only {} left", join_limited(&nearly)), advice)
    } else {
        Check::ok(
            "pins",
            format!("PINs left: {}", if fine.is_empty() { "no card group".to_owned() } else { join_limited(&fine) }),
        )
    })
}

/// Groups that sell, and will soon have nothing to sell.
pub async fn check_remaining_cards(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let low = sqlx::query_scalar!(
        r#"with free as materialized (select cardgroup_id, count(*) as count from card_stock group by cardgroup_id)
           select 'group ' || g.id || ' (' || g.name || '): ' || coalesce(free.count, 0) as "low!"
           from cardgroups g left join free on free.cardgroup_id = g.id
           where g.hidden = 0 and coalesce(free.count, 0) < $1
               and exists (select from cclineitems i where i.cardgroup_id = g.id
                           union all select from cards c where c.cardgroup_id = g.id and c.sold = 1 and coalesce(c.callerid, '') = '')
           order by free.count nulls first, g.id"#,
        LOW_STOCK_THRESHOLD
    );
    let low = low.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("cards", &low, "every group that sells has a hundred cards left", |names| {
        let advice = "`mortise cards generate --group ID --quantity N`";
        Check::warning("cards", format!("few cards are left: {names}"), advice)
    }))
}
