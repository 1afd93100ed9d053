//! The statement that sells for all who go together.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::batcher::{Alike, Order};
use crate::money::Money;
use crate::sales::statement::sale;

/// A card that was sold together with others.
#[derive(Debug)]
pub struct SoldOf {
    pub group: i32,
    /// Among those that are sold of the group, from 1 on.
    pub place: i64,
    pub number: String,
    pub pin: Option<String>,
    pub balance: Money,
}

/// Orders, as the statement takes them.
#[derive(Debug, Default)]
pub struct Orders<'a> {
    /// How many cards of which group.
    groups: BTreeMap<i32, i64>,
    kept: Vec<Kept<'a>>,
}

/// Whose replies are kept, and which of the group's cards that are sold stand in them.
#[derive(Debug)]
struct Kept<'a> {
    key: &'a str,
    fingerprint: &'a [u8],
    group: i32,
    first: i64,
    last: i64,
}

impl<'a> Extend<&'a Order> for Orders<'a> {
    fn extend<T: IntoIterator<Item = &'a Order>>(&mut self, orders: T) {
        for Order { group, quantity, key, .. } in orders {
            let last = self.groups.entry(*group).or_default();
            let first = *last + 1;
            *last += i64::from(*quantity);
            if let Some(key) = key {
                let (key, fingerprint) = (&key.key, &key.fingerprint);
                self.kept.push(Kept { key, fingerprint, group: *group, first, last: *last });
            }
        }
        // Another server may be at the same keys: in one order nobody waits for somebody who waits for him.
        self.kept.sort_unstable_by_key(|kept| kept.key);
    }
}

/// Sells the next free cards of several groups, so many of each or none of it, as [`sell`](crate::sales::statement::sell) does without order
/// rows: what is true of its statement is true of this one. Of each group the first to order get the first cards, and that is what is kept
/// for them. Groups are looked up one by one (`offset 0`), however many there are.
pub async fn sell_together(
    connection: &mut PgConnection,
    alike: &Alike,
    Orders { groups, kept }: &Orders<'_>,
) -> sqlx::Result<Vec<SoldOf>> {
    let (ids, quantities): (Vec<i32>, Vec<i64>) = groups.iter().unzip();
    sale!(
        SoldOf,
        r#"with picked as materialized (
            select cardgroup.*, quantity, card.*
            from unnest($1::integer[], $4::bigint[]) asked (id, quantity), lateral (
                select g.id as cardgroup_id, g.owner_id, g.disable_voucher,
                    coalesce((select single_tax_share(t) from taxes t where t.id = g.tax_id), tax_share_of(g.tax_id, g.owner_id)) as tax_share
                from cardgroups g
                where g.id = asked.id and g.owner_id = $2 and g.hidden = 0
                offset 0
            ) cardgroup, lateral (
                select row_number() over () as place, free.*
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
            select nextval('payments_id_seq') as payment_id, id, number, pin, balance, times(balance, $6) as amount,
                cardgroup_id, place, owner_id, tax_share, $5::text as currency,
                case when disable_voucher = 1 then number end as voucher_number, now() at time zone 'utc' as now
            from picked
            where (select count(*) from picked same where same.cardgroup_id = picked.cardgroup_id) = quantity"#,
        [""],
        r#", kept as (
            insert into idempotency_keys (user_id, operation, key, fingerprint, reply)
            select $3, 'card_from_group_sell', asked.key, asked.fingerprint,
                json_build_object('Done', json_build_object('currency', $5::text, 'cards', cards))
            from unnest($7::integer[], $8::bigint[], $9::bigint[], $10::text[], $11::bytea[])
                    asked (cardgroup_id, first, last, key, fingerprint),
                lateral (
                    select json_agg(json_build_object('number', number, 'pin', pin, 'balance', times(balance, $6)::text) order by place)
                        as cards
                    from sale
                    where cardgroup_id = asked.cardgroup_id and place between first and last
                    having count(*) > 0
                ) own
        )
        select cardgroup_id as "group!", place as "place!", number as "number!", pin, times(balance, $6) as "balance!: Money" from sale"#,
        &ids,
        alike.owner,
        alike.caller,
        &quantities,
        alike.currency,
        alike.rate,
        &kept.iter().map(|kept| kept.group).collect::<Vec<_>>(),
        &kept.iter().map(|kept| kept.first).collect::<Vec<_>>(),
        &kept.iter().map(|kept| kept.last).collect::<Vec<_>>(),
        &kept.iter().map(|kept| kept.key).collect::<Vec<_>>() as &[&str],
        &kept.iter().map(|kept| kept.fingerprint).collect::<Vec<_>>() as &[&[u8]]
    )
    .fetch_all(connection)
    .await
}
