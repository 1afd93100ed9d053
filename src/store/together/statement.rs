//! The statement that sells for all who go together.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::Alike;
use crate::money::Money;

/// A card that was sold together with others.
#[derive(Debug)]
pub struct SoldOf {
    pub group: i32,
    pub number: String,
    pub pin: Option<String>,
    pub balance: Money,
}

/// Sells the next free cards of several groups, so many of each or none of it, as [`sell`](crate::store::sale::sell) does without order rows: what is true of its
/// statement is true of this one. Groups are looked up one by one (`offset 0`), however many there are.
pub async fn sell_together(
    connection: &mut PgConnection,
    alike: &Alike,
    groups: &BTreeMap<i32, i64>,
) -> sqlx::Result<Vec<SoldOf>> {
    let (ids, quantities): (Vec<i32>, Vec<i64>) = groups.iter().unzip();
    sqlx::query_as!(
        SoldOf,
        r#"with cardgroup as materialized (
            select g.id as cardgroup_id, g.owner_id, g.disable_voucher, asked.quantity,
                case when (t.own).id is null then tax_share_of(g.tax_id, g.owner_id) else tax_share(t.own) end as tax_share
            from unnest($1::integer[], $4::bigint[]) asked (id, quantity),
                lateral (select * from cardgroups where id = asked.id and owner_id = $2 and hidden = 0 offset 0) g
                left join lateral (select taxes as own from taxes where id = g.tax_id offset 0) t on true
        ), picked as materialized (
            select cardgroup.*, card.*
            from cardgroup, lateral (
                select c.id, c.number, c.pin, coalesce(c.balance, 0) as balance
                from card_stock s join cards c on c.id = s.card_id
                where s.cardgroup_id = cardgroup.cardgroup_id and c.cardgroup_id + 0 = s.cardgroup_id and is_in_stock(c)
                order by s.number, s.card_id
                limit cardgroup.quantity
                for no key update of c skip locked
            ) card
        ), sale as materialized (
            select nextval('payments_id_seq') as payment_id, id, number, pin, balance, times(balance, $6) as amount,
                cardgroup_id, owner_id, tax_share, $5::text as currency,
                case when disable_voucher = 1 then number end as voucher_number, now() at time zone 'utc' as now
            from picked
            where (select count(*) from picked same where same.cardgroup_id = picked.cardgroup_id) = quantity
        ), marked as (
            update cards set sold = 1, active = 1 where id = any (array(select id from sale))
        ), payment as (
            insert into payments (id, paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed,
                date_added, shipped_at, description)
            select payment_id, 'Card', 'sale', amount, currency, amount * tax_share, id, owner_id, 1, 1, now, now, ''
            from sale
        ), action as (
            insert into actions (user_id, date, action, target_type, target_id, data, data2, data3)
            select $3, now, row.*
            from sale, lateral (
                select 'card_payment_created', 'Payment', payment_id, id::text, plain(amount), currency
                union all
                select 'Disable_Voucher_when_Card_is_used', 'Voucher', voucher_id, number, id::text, null
                from spend_vouchers(voucher_number)
                union all
                select 'card_sell_over_api', 'Card', id, '', '', null
            ) row
        )
        select cardgroup_id as "group!", number as "number!", pin, times(balance, $6) as "balance!: Money" from sale"#,
        &ids,
        alike.owner,
        alike.caller,
        &quantities,
        alike.currency,
        alike.rate
    )
    .fetch_all(connection)
    .await
}
