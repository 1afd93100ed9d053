//! Selling cards, wherever an operation says so (`data.md`, "Selling a card").

use bigdecimal::BigDecimal;
use sqlx::PgExecutor;

use crate::money::Money;

/// A sale: who sells which cards of which group, and how they are paid.
#[derive(Debug)]
pub struct Sale<'a> {
    /// The caller's id, for the audit rows.
    pub caller: i32,
    /// Whose the group must be, and open. `None`: that was looked at, or doesn't matter.
    pub owner: Option<i32>,
    /// The group.
    pub group: i32,
    /// Which of its cards.
    pub take: Take<'a>,
    /// In which currencies.
    pub terms: &'a Terms,
    /// Whether each card gets the audit row of `card_from_group_sell`.
    pub over_api: bool,
}

/// In which currencies a sale is paid, ordered and shown.
#[derive(Debug)]
pub struct Terms {
    /// The payment's currency. `None`: the group's.
    pub currency: Option<String>,
    /// From the system's currency to the payment's; to the caller's where the payment is in the group's, which the
    /// database knows.
    pub rate: BigDecimal,
    /// What the card's balance is multiplied by to be shown.
    pub shown_rate: BigDecimal,
    /// What the card's balance is multiplied by in the order rows.
    pub order_rate: BigDecimal,
    /// The order rows' currency: the system's.
    pub system_currency: String,
    /// Where the cards are sent; `None` writes no order rows.
    pub email: Option<String>,
}

/// A card that was sold.
pub struct SoldCard {
    /// Its number.
    pub number: String,
    /// Its PIN, if it has one.
    pub pin: Option<String>,
    /// Its balance, multiplied by the rate at which it is shown.
    pub balance: Money,
}

/// Which cards a statement sells.
#[derive(Debug)]
pub struct Take<'a> {
    /// This many of the next free ones, all or none;
    pub next: i64,
    /// or else these, which are locked.
    pub these: Option<&'a [i64]>,
    /// None at all where one of them is unsound, or the group has no tax row: somebody has to look closer.
    pub only_sound: bool,
}

/// Sells cards: marks them, and writes payments, voucher, audit and order rows (`data.md`, "Selling a card"). One
/// statement, so it happens wholly or not at all.
///
/// The cards are picked in a materialized CTE and updated by `any (array(…))`: in any other shape the planner may run the
/// locking subquery again, and sell more than was asked for.
pub async fn sell(database: impl PgExecutor<'_>, sale: Sale<'_>) -> sqlx::Result<Vec<SoldCard>> {
    let Sale { caller, owner, group, take, terms, over_api } = sale;
    sqlx::query_as!(
        SoldCard,
        r#"with cardgroup as materialized (
            select g.id, g.owner_id, g.disable_voucher, own.id is not null as has_taxes,
                coalesce(case when own.id is not null then tax_share(own) end, tax_share_of(g.tax_id, g.owner_id)) as tax_share,
                coalesce($6, g.tell_balance_in_currency, '') as currency,
                case when $6 is not null then 1 else system_rate_to(g.tell_balance_in_currency) end as rate
            from cardgroups g left join taxes own on own.id = g.tax_id
            where g.id = $1 and ($2::integer is null or g.owner_id = $2 and g.hidden = 0)
        ), picked as materialized (
            select c.id, c.number, c.pin, c.balance, is_sound(c, g) as sound
            from card_stock s join cards c on c.id = s.card_id join cardgroups g on g.id = c.cardgroup_id
            where $5::bigint[] is null and s.cardgroup_id = (select id from cardgroup)
                and c.cardgroup_id = s.cardgroup_id and is_in_stock(c)
            order by s.number, s.card_id
            limit $4
            for no key update of c skip locked
        ), chosen as materialized (
            select id, number, pin, balance from picked
            where (select count(*) from picked) = $4
                and not ($12 and ((select bool_or(not sound) from picked) or not (select has_taxes from cardgroup)))
            union all
            select id, number, pin, balance from cards where id = any ($5) and exists (select from cardgroup)
        ), marked as (
            update cards set sold = 1, active = 1 where id = any (array(select id from chosen)) and sold = 0 and hidden = 0 and retired_at is null
            returning id
        ), sale as materialized (
            select row_number() over (order by chosen.number collate "C", chosen.id) as line,
                nextval('payments_id_seq') as payment_id,
                case when $11::text is not null then nextval('ccorders_id_seq') end as ccorder_id,
                chosen.id, chosen.number, chosen.pin, coalesce(chosen.balance, 0) as balance,
                times(times(coalesce(chosen.balance, 0), $7), cardgroup.rate) as amount, cardgroup.id as cardgroup_id,
                cardgroup.owner_id, cardgroup.disable_voucher, cardgroup.tax_share, cardgroup.currency,
                now() at time zone 'utc' as now
            from chosen, cardgroup
            where chosen.id = any (array(select id from marked))
        ), payment as (
            insert into payments (id, paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed,
                date_added, shipped_at, description)
            select payment_id, 'Card', 'sale', amount, currency, amount * tax_share, id, owner_id, 1, 1, now, now, ''
            from sale order by line
        ), voucher as (
            update vouchers set use_date = now() at time zone 'utc'
            where use_date is null and number = any (array(select number from sale where disable_voucher = 1))
            returning id, number
        ), action as (
            insert into actions (user_id, date, action, target_type, target_id, data, data2, data3)
            select $3, sale.now, row.action, row.target_type, row.target_id, row.data, row.data2, row.data3
            from sale, lateral (
                select 1, 'card_payment_created', 'Payment', payment_id, sale.id::text, plain(amount), currency
                union all
                select 2, 'Disable_Voucher_when_Card_is_used', 'Voucher', voucher.id, voucher.number, sale.id::text, null
                from voucher where voucher.number = sale.number
                union all
                select 3, 'card_sell_over_api', 'Card', sale.id, '', '', null where $13
            ) row (step, action, target_type, target_id, data, data2, data3)
            order by sale.line, row.step
        ), ccorder as (
            insert into ccorders (id, amount, currency, ordertype, email, date_added, completed)
            select ccorder_id, times(balance, $9), $10, 'unspecified', $11, now, 1
            from sale where $11 is not null order by line
        ), lineitem as (
            insert into cclineitems (cardgroup_id, quantity, ccorder_id, card_id, price)
            select cardgroup_id, 1, ccorder_id, id, times(balance, $9)
            from sale where $11 is not null order by line
        )
        select number as "number!", pin, times(balance, $8) as "balance!: Money" from sale order by line"#,
        group,
        owner,
        caller,
        take.next,
        take.these,
        terms.currency,
        terms.rate,
        terms.shown_rate,
        terms.order_rate,
        terms.system_currency,
        terms.email,
        take.only_sound,
        over_api
    )
    .fetch_all(database)
    .await
}
