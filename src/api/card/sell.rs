//! `card_from_group_sell` (`buy_card_from_callingroup`): sells cards of a group, exactly once each.
//! The spec's page: `endpoints/card_from_group_sell.md`; the published one: `source/card_from_group_sell.txt`.

use bigdecimal::BigDecimal;
use sqlx::{PgConnection, PgExecutor};

use crate::call::{Call, Operation};
use crate::caller::{self, Caller};
use crate::directory::Currencies;
use crate::document::Document;
use crate::fault::Fault;
use crate::money::Money;
use crate::number::{self, Sign};
use crate::params::Params;
use crate::signature::Rule;
use crate::store;

/// The operation. (`email`, `id` and `quantity` are hashed, and what else of the long list a client sends.)
pub const OPERATION: Operation = Operation {
    name: "card_from_group_sell",
    aliases: &["buy_card_from_callingroup"],
    hashed: &[Rule::Listed(&["number"])],
    handler: |call| Box::pin(answer(call)),
};

async fn answer(call: Call) -> Result<Document, Fault> {
    let caller = caller::admit_strictly(&call).await?;
    let wish = Wish::read(&call.params);
    let currencies = call.app.directory.currencies().await?;
    let terms = Terms::of(&call, &caller, &currencies, &wish);

    let cards = at_once(&call, &caller, &wish, terms.as_ref()).await?;
    let lines = match cards.is_empty() {
        false => cards.into_iter().map(Line::Sold).collect(),
        true => step_by_step(&call, &caller, &wish, terms.as_ref()).await?,
    };
    Ok(reply(&lines, terms.map_or(String::new(), |terms| terms.shown_currency).as_str()))
}

/// What the client asks for.
#[derive(Debug)]
struct Wish {
    group: i32,
    which: Which,
    email: Option<String>,
    currency: Option<String>,
}

#[derive(Debug)]
enum Which {
    /// The card whose number has this value: its digits without leading zeros. `None`: a value that no card has.
    Number(Option<String>),
    /// The next free ones, this many.
    Next(u32),
}

impl Wish {
    fn read(params: &Params) -> Self {
        let which = match params.get("number").and_then(number::digits) {
            Some((sign, digits)) if !digits.is_empty() => Which::Number((sign == Sign::Plus).then_some(digits)),
            _ => Which::Next(u32::try_from(params.integer("quantity").max(1)).unwrap_or(u32::MAX)),
        };
        Self {
            group: i32::try_from(params.integer("id")).unwrap_or(-1),
            which,
            email: params.get("email").map(str::to_owned),
            currency: params.filled("curr").map(str::to_owned),
        }
    }
}

/// In which currencies the sale is paid, ordered and shown.
#[derive(Debug)]
struct Terms {
    /// The payment's currency. `None`: the group's.
    currency: Option<String>,
    /// From the system's currency to the payment's; to the caller's where the payment is in the group's, which the
    /// database knows.
    rate: BigDecimal,
    /// What the card's balance is multiplied by in the reply.
    shown_rate: BigDecimal,
    /// The currency's name in the reply.
    shown_currency: String,
    /// What the card's balance is multiplied by in the order rows.
    order_rate: BigDecimal,
    /// The order rows' currency: the system's.
    system_currency: String,
    /// Where the cards are sent; `None` writes no order rows.
    email: Option<String>,
}

impl Terms {
    /// `None`: the client named a currency that isn't an active one.
    fn of(call: &Call, caller: &Caller, currencies: &Currencies, wish: &Wish) -> Option<Self> {
        let dialect = call.dialect();
        let one = BigDecimal::from(1);
        let system_currency = currencies.system().map(|system| system.name.clone()).unwrap_or_default();
        let email = wish.email.clone().filter(|email| dialect.orders_for_blank_email() || !email.trim().is_empty());
        // MOR's column would cut a longer one; it is no address anyway, and a bad address never undoes a sale.
        let email = email.map(|email| email.chars().take(255).collect());

        if dialect.pays_in_groups_currency() {
            let own = currencies.of_user(caller.currency());
            let own_rate = own.map_or(one, |currency| currency.exchange_rate.clone());
            return Some(Self {
                currency: None,
                rate: own_rate.clone(),
                shown_rate: own_rate.clone(),
                shown_currency: system_currency.clone(),
                order_rate: own_rate,
                system_currency,
                email,
            });
        }
        let (name, rate) = match &wish.currency {
            None => (system_currency.clone(), one.clone()),
            Some(name) => {
                let currency = currencies.by_name(name).filter(|currency| currency.active)?;
                (currency.name.clone(), currencies.rate_to(currency))
            }
        };
        Some(Self {
            currency: Some(name.clone()),
            rate: rate.clone(),
            shown_rate: rate,
            shown_currency: name,
            order_rate: one,
            system_currency,
            email,
        })
    }
}

/// A line of the reply.
enum Line {
    Sold(Card),
    /// A card that an X7 server wouldn't sell stands among the others as an error.
    Refused,
}

struct Card {
    number: String,
    pin: String,
    balance: Money,
}

/// A card that could be sold, locked.
#[derive(Debug)]
struct Candidate {
    id: i64,
    sold: bool,
    sound: bool,
}

/// The common case in one round trip: the next free cards, as many as asked, sold by one statement that waits for nobody.
/// None sold: it isn't that simple, and nothing was changed.
async fn at_once(call: &Call, caller: &Caller, wish: &Wish, terms: Option<&Terms>) -> Result<Vec<Card>, Fault> {
    match (terms, &wish.which) {
        (Some(terms), Which::Next(quantity)) if *quantity <= call.app.config.max_quantity => {
            let take =
                Take { next: i64::from(*quantity), these: None, only_sound: call.dialect().refuses_unsound_cards() };
            Ok(sell(&call.app.pool, caller, wish, terms, take).await?)
        }
        _ => Ok(Vec::new()),
    }
}

/// Everything else, in the order of the contract, in one transaction. It waits for sales that are under way, since their
/// cards may yet come free again.
async fn step_by_step(call: &Call, caller: &Caller, wish: &Wish, terms: Option<&Terms>) -> Result<Vec<Line>, Fault> {
    let mut transaction = call.app.pool.begin().await?;
    let connection = &mut *transaction;
    find_group(connection, caller, wish.group).await?;
    if call.dialect().repairs_taxes() {
        store::tax::repair(connection, wish.group).await?;
    }
    let candidates = match &wish.which {
        Which::Number(digits) => vec![named(connection, wish.group, digits.as_deref()).await?],
        Which::Next(quantity) if *quantity > call.app.config.max_quantity => return Err(Fault::TransactionFailed),
        Which::Next(quantity) => next_free(connection, wish.group, *quantity).await?,
    };
    let terms = terms.ok_or(Fault::CurrencyNotFound)?;

    let sells = |candidate: &Candidate| candidate.sound || !call.dialect().refuses_unsound_cards();
    let these: Vec<i64> = candidates.iter().filter(|card| sells(card)).map(|card| card.id).collect();
    let take = Take { next: 0, these: Some(&these), only_sound: false };
    let mut sold = sell(&mut *connection, caller, wish, terms, take).await?.into_iter();
    transaction.commit().await?;
    let line = |card: &Candidate| if sells(card) { sold.next().map(Line::Sold) } else { Some(Line::Refused) };
    Ok(candidates.iter().filter_map(line).collect())
}

/// The group must be one of the caller's owner, and not hidden.
async fn find_group(connection: &mut PgConnection, caller: &Caller, group: i32) -> Result<(), Fault> {
    sqlx::query!("select id from cardgroups where id = $1 and owner_id = $2 and hidden = 0", group, caller.owner())
        .fetch_optional(connection)
        .await?
        .map(drop)
        .ok_or(Fault::CardgroupNotFound)
}

/// The group's card whose number has this value: leading zeros don't matter, and no number is longer than 255.
async fn named(connection: &mut PgConnection, group: i32, digits: Option<&str>) -> Result<Candidate, Fault> {
    let card = sqlx::query_as!(
        Candidate,
        r#"select c.id, c.sold = 1 as "sold!", is_sound(c, g) as "sound!"
           from cards c join cardgroups g on g.id = c.cardgroup_id
           where c.cardgroup_id = $1 and c.hidden = 0 and c.retired_at is null and c.number = any (
               array(select lpad($2, length, '0') from generate_series(length($2), greatest(length($2), 30)) length))
           order by c.id limit 1
           for no key update of c"#,
        group,
        digits
    )
    .fetch_optional(connection)
    .await?
    .ok_or(Fault::FreeCardsNotFound)?;
    if card.sold { Err(Fault::CardAlreadySold) } else { Ok(card) }
}

/// The next free cards: as many as asked, or as many as there are.
async fn next_free(connection: &mut PgConnection, group: i32, quantity: u32) -> Result<Vec<Candidate>, Fault> {
    let cards = sqlx::query_as!(
        Candidate,
        r#"select c.id, c.sold = 1 as "sold!", is_sound(c, g) as "sound!"
           from card_stock s join cards c on c.id = s.card_id join cardgroups g on g.id = c.cardgroup_id
           where s.cardgroup_id = $1 and c.cardgroup_id = $1 and is_in_stock(c)
           order by s.number, s.card_id limit $2
           for no key update of c"#,
        group,
        i64::from(quantity)
    )
    .fetch_all(connection)
    .await?;
    if cards.is_empty() { Err(Fault::FreeCardsNotFound) } else { Ok(cards) }
}

/// Which cards a statement sells.
#[derive(Debug)]
struct Take<'a> {
    /// This many of the next free ones, all or none;
    next: i64,
    /// or else these, which are locked.
    these: Option<&'a [i64]>,
    /// None at all where one of them is unsound, or the group has no tax row: somebody has to look closer.
    only_sound: bool,
}

/// Sells cards: marks them, and writes payments, voucher, audit and order rows (`data.md`, "Selling a card"). One
/// statement, so it happens wholly or not at all.
///
/// The cards are picked in a materialized CTE and updated by `any (array(…))`: in any other shape the planner may run the
/// locking subquery again, and sell more than was asked for.
async fn sell(
    database: impl PgExecutor<'_>,
    caller: &Caller,
    wish: &Wish,
    terms: &Terms,
    take: Take<'_>,
) -> sqlx::Result<Vec<Card>> {
    sqlx::query_as!(
        Card,
        r#"with cardgroup as materialized (
            select g.id, g.owner_id, g.disable_voucher, own.id is not null as has_taxes,
                coalesce(
                    case when own.id is not null then tax_share(own) end,
                    (select tax_share(t) from taxes t join users u on u.tax_id = t.id where u.id = g.owner_id),
                    (select tax_share(default_taxes()))
                ) as tax_share,
                coalesce($6, g.tell_balance_in_currency, '') as currency,
                case when $6 is not null then $7::numeric else $7::numeric * system_rate_to(g.tell_balance_in_currency) end as rate
            from cardgroups g left join taxes own on own.id = g.tax_id
            where g.id = $1 and g.owner_id = $2 and g.hidden = 0
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
            select id, number, pin, balance from cards where id = any ($5)
        ), marked as (
            update cards set sold = 1, active = 1 where id = any (array(select id from chosen)) and sold = 0
            returning id
        ), sale as materialized (
            select row_number() over (order by chosen.number collate "C", chosen.id) as line,
                nextval('payments_id_seq') as payment_id,
                case when $11::text is not null then nextval('ccorders_id_seq') end as ccorder_id,
                chosen.id, chosen.number, coalesce(chosen.pin, '') as pin, coalesce(chosen.balance, 0) as balance,
                coalesce(chosen.balance, 0) * cardgroup.rate as amount, cardgroup.id as cardgroup_id,
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
                select 3, 'card_sell_over_api', 'Card', sale.id, '', '', null
            ) row (step, action, target_type, target_id, data, data2, data3)
            order by sale.line, row.step
        ), ccorder as (
            insert into ccorders (id, amount, currency, ordertype, email, date_added, completed)
            select ccorder_id, balance * $9::numeric, $10, 'unspecified', $11, now, 1
            from sale where $11 is not null order by line
        ), lineitem as (
            insert into cclineitems (cardgroup_id, quantity, ccorder_id, card_id, price)
            select cardgroup_id, 1, ccorder_id, id, balance * $9::numeric
            from sale where $11 is not null order by line
        )
        select number as "number!", pin as "pin!", balance * $8::numeric as "balance!: Money" from sale order by line"#,
        wish.group,
        caller.owner(),
        caller.id(),
        take.next,
        take.these,
        terms.currency,
        terms.rate,
        terms.shown_rate,
        terms.order_rate,
        terms.system_currency,
        terms.email,
        take.only_sound
    )
    .fetch_all(database)
    .await
}

fn reply(lines: &[Line], currency: &str) -> Document {
    Document::new("page", |page| {
        page.element("cards", |cards| {
            for line in lines {
                match line {
                    Line::Sold(sold) => cards.element("card", |card| {
                        card.text("pin", &sold.pin);
                        card.text("number", &sold.number);
                        card.text("balance_without_vat", sold.balance.plain());
                        card.text("currency", currency);
                    }),
                    Line::Refused => cards.element("status", |status| status.text("error", "Card error")),
                }
            }
        });
    })
}
