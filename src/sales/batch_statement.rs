//! The statement that makes all sales of a batch.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::order::{BatchKey, SaleOrder};
use crate::money::Money;
use crate::sales::statement::sale_query;

/// A card that the statement sold.
#[derive(Debug)]
pub struct SoldCardRow {
    pub group_id: i32,
    /// Its position among the sold cards of the group, from 1.
    pub position: i64,
    pub number: String,
    pub pin: Option<String>,
    pub balance: Money,
}

/// The orders of a batch, as parameters of the statement.
#[derive(Debug, Default)]
pub struct BatchInput<'a> {
    /// The number of cards ordered, by group.
    quantity_by_group: BTreeMap<i32, i64>,
    stored_replies: Vec<StoredReplyRange<'a>>,
}

/// A reply to store, and the positions of its cards among the sold cards of the group.
#[derive(Debug)]
struct StoredReplyRange<'a> {
    key: &'a str,
    fingerprint: &'a [u8],
    group_id: i32,
    first_position: i64,
    last_position: i64,
}

impl<'a> Extend<&'a SaleOrder> for BatchInput<'a> {
    fn extend<T: IntoIterator<Item = &'a SaleOrder>>(&mut self, orders: T) {
        for SaleOrder { group_id, quantity, key, .. } in orders {
            let total = self.quantity_by_group.entry(*group_id).or_default();
            let first_position = *total + 1;
            *total += i64::from(*quantity);
            if let Some(key) = key {
                self.stored_replies.push(StoredReplyRange {
                    key: &key.key,
                    fingerprint: &key.fingerprint,
                    group_id: *group_id,
                    first_position,
                    last_position: *total,
                });
            }
        }
        // Another server may insert the same keys at the same time: the same order in all statements avoids deadlocks.
        self.stored_replies.sort_unstable_by_key(|reply| reply.key);
    }
}

/// Sells the next free cards of several groups. It sells the ordered number of a group's cards or none of that group.
///
/// The statement does what [`sell`](crate::sales::statement::sell) does without order rows, and has the same
/// constraints. Within a group the cards are assigned to the orders in the order of the batch; the stored replies
/// contain the same assignment. `offset 0` makes the planner look up the groups one by one, regardless of their number.
pub async fn sell_batch(
    connection: &mut PgConnection,
    batch_key: &BatchKey,
    BatchInput { quantity_by_group, stored_replies }: &BatchInput<'_>,
) -> sqlx::Result<Vec<SoldCardRow>> {
    let (group_ids, quantities): (Vec<i32>, Vec<i64>) = quantity_by_group.iter().unzip();
    sale_query!(
        SoldCardRow,
        r#"with picked as materialized (
            select cardgroup.*, quantity, card.*
            from unnest($1::integer[], $4::bigint[]) ordered (id, quantity), lateral (
                select g.id as cardgroup_id, g.owner_id, g.disable_voucher,
                    coalesce((select single_tax_rate(t) from taxes t where t.id = g.tax_id), effective_tax_rate(g.tax_id, g.owner_id)) as tax_rate
                from cardgroups g
                where g.id = ordered.id and g.owner_id = $2 and g.hidden = 0
                offset 0
            ) cardgroup, lateral (
                select row_number() over () as position, free.*
                from (
                    select c.id, c.number, c.pin, coalesce(c.balance, 0) as balance
                    from card_stock s join cards c on c.id = s.card_id
                    where s.cardgroup_id = cardgroup.cardgroup_id and c.cardgroup_id + 0 = s.cardgroup_id and is_in_stock(c)
                    order by s.number, s.card_id
                    limit quantity
                    for no key update of c skip locked
                ) free
            ) card
        ), sale as materialized (
            select nextval('payments_id_seq') as payment_id, id, number, pin, balance, multiply_rounded(balance, $6) as amount,
                cardgroup_id, position, owner_id, tax_rate, $5::text as currency,
                case when disable_voucher = 1 then number end as voucher_number, now() at time zone 'utc' as now
            from picked
            where (select count(*) from picked same where same.cardgroup_id = picked.cardgroup_id) = quantity"#,
        [""],
        r#", stored_reply as (
            insert into idempotency_keys (user_id, operation, key, fingerprint, reply)
            select $3, 'card_from_group_sell', ordered.key, ordered.fingerprint,
                json_build_object('Done', json_build_object('currency', $5::text, 'cards', cards))
            from unnest($7::integer[], $8::bigint[], $9::bigint[], $10::text[], $11::bytea[])
                    ordered (cardgroup_id, first_position, last_position, key, fingerprint),
                lateral (
                    select json_agg(json_build_object('number', number, 'pin', pin, 'balance', multiply_rounded(balance, $6)::text) order by position)
                        as cards
                    from sale
                    where cardgroup_id = ordered.cardgroup_id and position between first_position and last_position
                    having count(*) > 0
                ) own
        )
        select cardgroup_id as "group_id!", position as "position!", number as "number!", pin, multiply_rounded(balance, $6) as "balance!: Money" from sale"#,
        &group_ids,
        batch_key.owner_id,
        batch_key.user_id,
        &quantities,
        batch_key.currency,
        batch_key.rate,
        &stored_replies.iter().map(|reply| reply.group_id).collect::<Vec<_>>(),
        &stored_replies.iter().map(|reply| reply.first_position).collect::<Vec<_>>(),
        &stored_replies.iter().map(|reply| reply.last_position).collect::<Vec<_>>(),
        &stored_replies.iter().map(|reply| reply.key).collect::<Vec<_>>() as &[&str],
        &stored_replies.iter().map(|reply| reply.fingerprint).collect::<Vec<_>>() as &[&[u8]]
    )
    .fetch_all(connection)
    .await
}
