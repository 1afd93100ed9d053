//! The statement that sells cards, for all operations that sell cards (`data.md`, "Selling a card").

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::idempotency::key::IdempotencyKey;
use crate::mail::OutboxEntry;
use crate::money::Money;

/// A sale: the user who sells, the cards, and how they are paid.
#[derive(Debug)]
pub struct SaleRequest<'a> {
    /// The caller's id, for the audit rows.
    pub user_id: i32,
    /// The owner that the group must have. If it is set, a hidden group sells nothing. `None`: owner and visibility are
    /// not checked here.
    pub owner_id: Option<i32>,
    /// The card group.
    pub group_id: i32,
    /// The cards of the group that are sold.
    pub selection: CardSelection<'a>,
    /// The currencies and rates.
    pub terms: &'a PaymentTerms,
    /// Whether each card gets the audit row `card_sell_over_api` of `card_from_group_sell`.
    pub sold_over_api: bool,
}

/// The currencies and rates in which a sale is paid, ordered and shown.
#[derive(Debug)]
pub struct PaymentTerms {
    /// The payment's currency. `None`: the group's.
    pub currency: Option<String>,
    /// The rate from the system's currency to the payment's. If the payment is in the group's currency, it is the rate
    /// to the caller's currency, and the statement multiplies it by the group's.
    pub rate: BigDecimal,
    /// The factor by which a card's balance is multiplied in the reply.
    pub display_rate: BigDecimal,
    /// The factor by which a card's balance is multiplied in the order rows.
    pub order_rate: BigDecimal,
    /// The currency of the order rows: the system's.
    pub system_currency: String,
    /// The buyer's address. `None`: no order rows are written.
    pub email: Option<BuyerEmail>,
}

/// The buyer's address for the order rows, and the e-mail to send.
#[derive(Debug)]
pub struct BuyerEmail {
    /// As the client sent it.
    pub address: String,
    /// The e-mail with the cards. `None`: no e-mail is sent.
    pub outbox_entry: Option<OutboxEntry>,
}

/// A sold card, as the reply contains it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SoldCard {
    /// The card number.
    pub number: String,
    /// The PIN, if the card has one.
    pub pin: Option<String>,
    /// The balance, multiplied by [`PaymentTerms::display_rate`].
    pub balance: Money,
}

/// The cards that a statement sells.
#[derive(Debug)]
pub enum CardSelection<'a> {
    /// The next free cards.
    Next {
        /// The number of cards. The statement sells this many or none.
        quantity: i64,
        /// Sell none if one of the cards is not sellable, or the group has no tax row. The caller of `sell` then
        /// handles each card in a transaction.
        only_sellable: bool,
        /// The reply to store, if the request has an idempotency key.
        stored_reply: Option<StoredReplySpec<'a>>,
    },
    /// The cards with these ids, which the transaction has locked.
    Ids(&'a [i64]),
}

/// The data, besides the cards, with which the statement stores the reply of `card_from_group_sell`.
#[derive(Debug, Clone, Copy)]
pub struct StoredReplySpec<'a> {
    /// The request's idempotency key.
    pub key: &'a IdempotencyKey,
    /// The currency that balances are labelled with.
    pub currency: &'a str,
}

/// A statement with everything that each sale writes: the cards, their payments, vouchers and audit rows. `$before`
/// picks the cards, as the CTE `sale`. `$over_api` is the condition for the audit row of `card_from_group_sell`.
/// `$after` has further CTEs and the final select.
macro_rules! sale_query {
    ($row:ident, $($before:literal)+, [$over_api:literal], $($after:literal)+, $($value:expr),+) => {
        sqlx::query_as!(
            $row,
            $($before +)+
                r#"), marked as (
                update cards set sold = 1, active = 1 where id = any (array(select id from sale))
            ), payment as (
                insert into payments (id, paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed,
                    date_added, shipped_at, description)
                select payment_id, 'Card', 'sale', amount, currency, amount * tax_rate, id, owner_id, 1, 1, now, now, ''
                from sale
            ), action as (
                insert into actions (user_id, date, action, target_type, target_id, data, data2, data3)
                select $3, now, row.*
                from sale, lateral (
                    select 'card_payment_created', 'Payment', payment_id, id::text, plain_text(amount), currency
                    union all
                    select 'Disable_Voucher_when_Card_is_used', 'Voucher', voucher_id, number, id::text, null
                    from redeem_vouchers(voucher_number)
                    union all
                    select 'card_sell_over_api', 'Card', id, '', '', null"#
                + $over_api
                + ") row )"
                $(+ $after)+,
            $($value),+
        )
    };
}
pub(super) use sale_query;

/// The statement for one group, with the parts that differ: further columns of the group, the query that picks cards,
/// the condition under which the picked cards are sold, the order rows, and the stored reply (the parameters of the
/// key, the fingerprint and the currency). There are several texts because PostgreSQL takes time to plan each part of a
/// statement, even one that a sale does not use.
macro_rules! single_group_query {
    (
        [$group:literal, $($picked:literal)+, $condition:literal], [$ccorder_id:literal, $orders:literal],
        [$($key:literal, $fingerprint:literal, $display_currency:literal)?], $($value:expr),+
    ) => {
        sale_query!(
            SoldCard,
            r#"with picked as materialized (
                select cardgroup.*, card.*
                from (
                    select g.id as cardgroup_id, g.owner_id, g.disable_voucher,
                        coalesce((select single_tax_rate(t) from taxes t where t.id = g.tax_id), effective_tax_rate(g.tax_id, g.owner_id)) as tax_rate,
                        coalesce($5, g.tell_balance_in_currency, '') as currency,
                        $6::numeric * case when $5 is null then exchange_rate_to(g.tell_balance_in_currency) else 1 end as rate"#
                $group
                r#"
                    from cardgroups g
                    where g.id = $1 and ($2::integer is null or g.owner_id = $2 and g.hidden = 0)
                    offset 0
                ) cardgroup, lateral ("#
                $($picked)+
                r#") card
            ), sale as materialized (
                select nextval('payments_id_seq') as payment_id, id, number, pin, balance, multiply_rounded(balance, rate) as amount,
                    cardgroup_id, owner_id, tax_rate, currency,
                    case when disable_voucher = 1 then number end as voucher_number, now() at time zone 'utc' as now"#
                $ccorder_id
                r#"
                from picked where "#
                $condition,
            [" where $4"],
            $orders
                $(r#", stored_reply as (
                insert into idempotency_keys (user_id, operation, key, fingerprint, reply)
                select $3, 'card_from_group_sell', "# $key ", " $fingerprint r#", json_build_object('Done', json_build_object(
                    'currency', "# $display_currency r#"::text,
                    'cards', json_agg(json_build_object('number', number, 'pin', pin, 'balance', multiply_rounded(balance, $7)::text))))
                from sale having count(*) > 0
            )"#)?
                r#"
            select number as "number!", pin, multiply_rounded(balance, $7) as "balance!: Money" from sale"#,
            $($value),+
        )
    };
}

/// Runs the statement with the given query that picks cards, and with order rows if the sale has an e-mail address.
macro_rules! run_sale {
    ($connection:expr, $sale:expr, $cards:expr, $picked:tt, $stored:tt, $stored_with_orders:tt, [$($key:expr),*]) => {{
        let SaleRequest { user_id, owner_id, group_id, terms, sold_over_api, .. } = $sale;
        let PaymentTerms { currency, rate, display_rate, order_rate, system_currency, email } = terms;
        let currency = currency.as_deref();
        match email {
            None => {
                single_group_query!(
                    $picked,
                    ["", ""],
                    $stored,
                    group_id,
                    owner_id,
                    user_id,
                    sold_over_api,
                    currency,
                    rate,
                    display_rate,
                    $cards
                    $(, $key)*
                )
                .fetch_all($connection)
                .await
            }
            Some(email) => {
                single_group_query!(
                    $picked,
                    [
                        ", nextval('ccorders_id_seq') as ccorder_id",
                        ", ccorder as (
                            insert into ccorders (id, amount, currency, ordertype, email, date_added, completed)
                            select ccorder_id, multiply_rounded(balance, $9), $10, 'unspecified', $11, now, 1 from sale
                        ), lineitem as (
                            insert into cclineitems (cardgroup_id, quantity, ccorder_id, card_id, price)
                            select cardgroup_id, 1, ccorder_id, id, multiply_rounded(balance, $9) from sale
                        ), outbox_entry as (
                            insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, failed_at, last_error)
                            select min(owner_id), $3, $11, gen_random_uuid() || '@' || $12, array_agg(id), array_agg(multiply_rounded(balance, $7)),
                                coalesce($5, $10), case when $13::text is not null then min(now) end, $13
                            from sale where $12::text is not null having count(*) > 0
                        )"
                    ],
                    $stored_with_orders,
                    group_id,
                    owner_id,
                    user_id,
                    sold_over_api,
                    currency,
                    rate,
                    display_rate,
                    $cards,
                    order_rate,
                    system_currency,
                    email.address,
                    email.outbox_entry.as_ref().map(|entry| entry.message_id_domain.as_str()),
                    email.outbox_entry.as_ref().and_then(|entry| entry.initial_error)
                    $(, $key)*
                )
                .fetch_all($connection)
                .await
            }
        }
    }};
}

/// Sells the next free cards. `skip locked` passes over cards that concurrent sales have locked, so no sale waits for
/// another. `+ 0` makes the planner look up each card by its id; otherwise it may read the whole group, depending on
/// the table's statistics.
macro_rules! sell_next_free {
    (
        $connection:expr, $sale:expr, $quantity:expr, $group:literal, $sellable:literal, $condition:literal, $stored:expr
    ) => {
        match $stored {
            None => sell_next_free!($connection, $sale, $quantity, $group, $sellable, $condition, [], [], []),
            Some(StoredReplySpec { key, currency: display_currency }) => sell_next_free!(
                $connection,
                $sale,
                $quantity,
                $group,
                $sellable,
                $condition,
                ["$9", "$10", "$11"],
                ["$14", "$15", "$16"],
                [key.key, &key.fingerprint, display_currency]
            ),
        }
    };
    (
        $connection:expr, $sale:expr, $quantity:expr, $group:literal, $sellable:literal, $condition:literal,
        $stored:tt, $stored_with_orders:tt, $key:tt
    ) => {
        run_sale!(
            $connection,
            $sale,
            $quantity,
            [
                $group,
                "select c.id, c.number, c.pin, coalesce(c.balance, 0) as balance" $sellable "
                 from card_stock s join cards c on c.id = s.card_id
                 where s.cardgroup_id = cardgroup.cardgroup_id and c.cardgroup_id + 0 = s.cardgroup_id and is_in_stock(c)
                 order by s.number, s.card_id
                 limit $8
                 for no key update of c skip locked",
                $condition
            ],
            $stored,
            $stored_with_orders,
            $key
        )
    };
}

/// Sells cards: marks them as sold, and writes payments, voucher, audit and order rows, and the buyer's e-mail
/// (`data.md`, "Selling a card"). It is one statement, so it is atomic.
///
/// The cards are picked in a materialized CTE and updated by `any (array(…))`: in any other shape the planner may run
/// the locking subquery again, and sell more cards than ordered. All parts process the cards in the order in which they
/// were picked. The last part inserts the reply under the idempotency key: if the key exists already, the statement
/// fails and changes nothing.
pub async fn sell(connection: &mut PgConnection, sale: SaleRequest<'_>) -> sqlx::Result<Vec<SoldCard>> {
    match sale.selection {
        CardSelection::Next { quantity, only_sellable: false, stored_reply } => {
            sell_next_free!(
                connection,
                sale,
                quantity,
                "",
                "",
                "(select true from picked offset $8 - 1 limit 1)",
                stored_reply
            )
        }
        CardSelection::Next { quantity, only_sellable: true, stored_reply } => sell_next_free!(
            connection,
            sale,
            quantity,
            ", g.pin_length, g.number_length, exists (select from taxes where id = g.tax_id) as has_taxes",
            ", is_sellable(c, cardgroup.pin_length, cardgroup.number_length) as sellable",
            "(select count(*) from picked where has_taxes and sellable) = $8",
            stored_reply
        ),
        CardSelection::Ids(ids) => run_sale!(
            connection,
            sale,
            ids,
            [
                "",
                r#"select id, number, pin, coalesce(balance, 0) as balance
                 from cards
                 where id = any ($8) and sold = 0 and hidden = 0 and retired_at is null
                 order by number collate "C", id"#,
                "true"
            ],
            [],
            [],
            []
        ),
    }
}
