//! The statement that sells for all who go together.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::batcher::{BatchKey, SaleOrder};
use crate::money::Money;
use crate::sales::statement::sale_query;

/// A card that was sold together with others.
#[derive(Debug)]
pub struct SoldCardRow {
    pub group_id: i32,
    /// Among those that are sold of the group, from 1 on.
    pub position: i64,
    pub number: String,
    pub pin: Option<String>,
    pub balance: Money,
}

/// Orders, as the statement takes them.
#[derive(Debug, Default)]
pub struct BatchInput<'a> {
    /// How many cards of which group.
    quantity_by_group: BTreeMap<i32, i64>,
    stored_replies: Vec<StoredReplyRange<'a>>,
}

/// Whose replies are kept, and which of the group's cards that are sold stand in them.
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
        for SaleOrder { group_id: group, quantity, key, .. } in orders {
            let last = self.quantity_by_group.entry(*group).or_default();
            let first = *last + 1;
            *last += i64::from(*quantity);
            if let Some(key) = key {
                let (key, fingerprint) = (&key.key, &key.fingerprint);
                self.stored_replies.push(StoredReplyRange {
                    key,
                    fingerprint,
                    group_id: *group,
                    first_position: first,
                    last_position: *last,
                });
            }
        }
        // Another server may be at the same keys: in one order nobody waits for somebody who waits for him.
        self.stored_replies.sort_unstable_by_key(|kept| kept.key);
    }
}

/// Sells the next free cards of several groups, so many of each or none of it, as [`sell`](crate::sales::statement::sell) does without order
/// rows: what is true of its statement is true of this one. Of each group the first to order get the first cards, and that is what is kept
/// for them. Groups are looked up one by one (`offset 0`), however many there are.
pub async fn sell_batch(
    connection: &mut PgConnection,
    batch: &BatchKey,
    BatchInput { quantity_by_group, stored_replies }: &BatchInput<'_>,
) -> sqlx::Result<Vec<SoldCardRow>> {
    let (ids, quantities): (Vec<i32>, Vec<i64>) = quantity_by_group.iter().unzip();
    sale_query!(
        SoldCardRow,
        r#"with picked as materialized (
            select cardgroup.*, quantity, card.*
            from unnest($1::integer[], $4::bigint[]) asked (id, quantity), lateral (
                select g.id as cardgroup_id, g.owner_id, g.disable_voucher,
                    coalesce((select single_tax_rate(t) from taxes t where t.id = g.tax_id), effective_tax_rate(g.tax_id, g.owner_id)) as tax_rate
                from cardgroups g
                where g.id = asked.id and g.owner_id = $2 and g.hidden = 0
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
            select $3, 'card_from_group_sell', asked.key, asked.fingerprint,
                json_build_object('Done', json_build_object('currency', $5::text, 'cards', cards))
            from unnest($7::integer[], $8::bigint[], $9::bigint[], $10::text[], $11::bytea[])
                    asked (cardgroup_id, first_position, last_position, key, fingerprint),
                lateral (
                    select json_agg(json_build_object('number', number, 'pin', pin, 'balance', multiply_rounded(balance, $6)::text) order by position)
                        as cards
                    from sale
                    where cardgroup_id = asked.cardgroup_id and position between first_position and last_position
                    having count(*) > 0
                ) own
        )
        select cardgroup_id as "group_id!", position as "position!", number as "number!", pin, multiply_rounded(balance, $6) as "balance!: Money" from sale"#,
        &ids,
        batch.owner_id,
        batch.user_id,
        &quantities,
        batch.currency,
        batch.rate,
        &stored_replies.iter().map(|reply| reply.group_id).collect::<Vec<_>>(),
        &stored_replies.iter().map(|reply| reply.first_position).collect::<Vec<_>>(),
        &stored_replies.iter().map(|reply| reply.last_position).collect::<Vec<_>>(),
        &stored_replies.iter().map(|reply| reply.key).collect::<Vec<_>>() as &[&str],
        &stored_replies.iter().map(|reply| reply.fingerprint).collect::<Vec<_>>() as &[&[u8]]
    )
    .fetch_all(connection)
    .await
}
