//! `card_by_cli_update` (`cc_by_cli`): makes and tops up cards, and moves funds, for a caller id.
//! The spec's page: `endpoints/card_by_cli_update.md`; the published one: `source/card_by_cli_update.txt`.

use bigdecimal::BigDecimal;
use sqlx::PgConnection;

use crate::call::{Call, Operation};
use crate::caller::{self, Caller};
use crate::document::{Document, Element};
use crate::fault::Fault;
use crate::money::Money;
use crate::number;
use crate::params::Params;
use crate::signature::Rule;
use crate::store;
use crate::store::card::{Card, Conversion};
use crate::store::sale::{Sale, Take, Terms, sell};

/// The operation. Under its old name the hash may follow the rule of 2012, which leaves `amount` out.
pub const OPERATION: Operation = Operation {
    name: "card_by_cli_update",
    aliases: &["cc_by_cli"],
    hashed: &[Rule::Listed(&[]), Rule::Legacy("cc_by_cli", &["user_id", "pin", "callerid"])],
    handler: |call| Box::pin(answer(call)),
};

/// MOR's column.
const LONGEST_CALLERID: usize = 30;
/// How often a number and PIN are drawn before a group counts as full.
const DRAWS: usize = 100;

async fn answer(call: Call) -> Result<Document, Fault> {
    let caller = caller::admit_strictly(&call).await?;
    let desk = Desk::new(&call, &caller).await?;
    let wish = Wish::read(&call.params, &call)?;
    serve(&desk, &wish).await.map_err(|fault| match fault {
        Fault::TransactionFailed => Fault::CallerIdFailed,
        fault => fault,
    })
}

async fn serve(desk: &Desk<'_>, wish: &Wish) -> Result<Document, Fault> {
    let mut transaction = desk.call.app.pool.begin().await?;
    let connection = &mut *transaction;
    take_turns(connection, &wish.callerid).await?;
    let found = Found::look_up(connection, desk, wish).await?;
    let deed = Deed::choose(connection, desk, wish, found).await?;
    let outcome = deed.carry_out(connection, desk, wish).await?;
    let document = outcome.show(connection, desk, wish).await?;
    transaction.commit().await.map_err(Fault::of_commit)?;
    Ok(document)
}

/// Who serves whom: the request, and how its amounts are counted.
struct Desk<'a> {
    call: &'a Call,
    caller: &'a Caller,
    conversion: Conversion,
    terms: Terms,
}

impl<'a> Desk<'a> {
    async fn new(call: &'a Call, caller: &'a Caller) -> Result<Self, Fault> {
        let currencies = call.app.directory.currencies().await?;
        let shows_own = call.dialect().shows_callers_currency();
        let rate = if shows_own { currencies.rate_of_user(caller.currency()) } else { BigDecimal::from(1) };
        let digits = call.system.nice_digits();
        let terms = Terms {
            currency: None,
            rate: rate.clone(),
            shown_rate: rate.clone(),
            order_rate: rate.clone(),
            system_currency: String::new(),
            email: None,
        };
        Ok(Self { call, caller, conversion: Conversion { caller: caller.id(), rate, digits }, terms })
    }

    /// The group is the caller's owner's, or the card wouldn't have been found.
    async fn sell(&self, connection: &mut PgConnection, card: i64, group: i32) -> Result<(), Fault> {
        let take = Take { next: 0, these: Some(&[card]), only_sound: false };
        let (caller, owner) = (self.caller.id(), self.caller.owner());
        let sale = Sale { caller, owner, group, take, terms: &self.terms, over_api: false };
        match sell(connection, sale).await?.len() {
            1 => Ok(()),
            _ => Err(Fault::TransactionFailed),
        }
    }

    async fn repair(&self, connection: &mut PgConnection, group: i32) -> Result<(), Fault> {
        if self.call.dialect().repairs_taxes() {
            store::tax::repair(connection, group).await?;
        }
        Ok(())
    }
}

/// What the client asks for.
#[derive(Debug)]
struct Wish {
    /// As it is kept.
    callerid: String,
    /// As it was sent, for the reply.
    callerid_sent: String,
    pin: Option<String>,
    /// Tax included. Unused when there is a PIN.
    amount: BigDecimal,
    /// The group named, by whatever number was read.
    group: Option<i32>,
}

impl Wish {
    fn read(params: &Params, call: &Call) -> Result<Self, Fault> {
        let sent = params.filled("callerid").or(params.filled("calleridid")).ok_or(Fault::CallerIdMissing)?;
        let callerid: String = sent.chars().take(LONGEST_CALLERID).collect();
        if callerid != sent && !call.dialect().cuts_long_texts() {
            return Err(Fault::CallerIdFailed);
        }
        let blank_counts = call.dialect().takes_blank_group_for_unknown() && params.get("cardgroup_id").is_some();
        let group = params.filled("cardgroup_id").or(params.filled("cardgroup")).or(blank_counts.then_some(""));
        Ok(Self {
            callerid,
            callerid_sent: sent.to_owned(),
            pin: params.filled("pin").map(|pin| pin.trim_end_matches(' ').to_owned()),
            amount: params.get("amount").map_or_else(|| BigDecimal::from(0), number::decimal),
            group: group.map(|id| i32::try_from(number::integer(id)).unwrap_or(-1)),
        })
    }
}

/// Requests for one caller id run one after the other, so that two of them never make two cards.
async fn take_turns(connection: &mut PgConnection, callerid: &str) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('callerid ' || $1, 0))", callerid)
        .fetch_one(connection)
        .await
        .map(drop)
}

/// A device that has the caller id.
#[derive(Debug)]
struct Device {
    id: i32,
    user_id: i32,
    is_providers: bool,
    /// The owner of the device's user, if there is such a user.
    owner_id: Option<i32>,
}

/// What has the caller id; devices go before cards.
#[derive(Debug)]
enum Holder {
    Device(Device),
    Card(Card),
    Nobody,
}

/// What the request is about, locked.
#[derive(Debug)]
struct Found {
    holder: Holder,
    /// The card with the PIN sent.
    pin_card: Option<Card>,
}

impl Found {
    async fn look_up(connection: &mut PgConnection, desk: &Desk<'_>, wish: &Wish) -> Result<Self, Fault> {
        let dialect = desk.call.dialect();
        let partial = dialect.matches_partial_callerids() || desk.call.app.config.match_partial_callerids;
        let device = device(connection, &wish.callerid, partial).await?;
        let cards = store::card::lock(connection, &wish.callerid, wish.pin.as_deref()).await?;
        let by_callerid = cards.iter().find(|card| card.callerid.as_deref() == Some(&wish.callerid)).cloned();
        let holder = match (device, by_callerid) {
            (Some(device), _) => Holder::Device(device),
            (None, Some(card)) => Holder::Card(card),
            (None, None) => Holder::Nobody,
        };
        let has_pin = |card: &&Card| wish.pin.is_some() && card.pin == wish.pin && card.in_open_group;
        let pin_card = cards.iter().find(has_pin).cloned();
        Ok(Self { holder, pin_card })
    }
}

async fn device(connection: &mut PgConnection, callerid: &str, partial: bool) -> sqlx::Result<Option<Device>> {
    sqlx::query_as!(
        Device,
        r#"select d.id, d.user_id, d.user_id = -1 or exists (select from providers p where p.device_id = d.id) as "is_providers!",
               (select coalesce(u.owner_id, 0) from users u where u.id = d.user_id) as owner_id
           from devices d
           where d.id = any (array(select device_id from callerids where cli = $1))
               or $2 and d.id = any (array(select device_id from callerids where $2 and position($1 in cli) > 0))
           order by d.id limit 1"#,
        callerid,
        partial
    )
    .fetch_optional(connection)
    .await
}

/// A card group of the caller's owner, for a new card.
#[derive(Debug)]
struct Group {
    id: i32,
    number_length: i32,
    pin_length: i32,
    /// From the system's currency to the group's.
    rate: BigDecimal,
}

/// A row of the contract's two tables.
#[derive(Debug)]
enum Deed {
    /// A device's user is topped up.
    RefillUser { device: Device },
    /// The caller's card is topped up.
    TopUp { card: Card },
    /// The caller's card is replaced by one of another group.
    Replace { card: Card, group: Group },
    /// A new card.
    Create { group: Group },
    /// A device's user gets the PIN card's balance.
    PinToUser { device: Device, pin_card: Card },
    /// The caller's card gets it.
    PinToCard { card: Card, pin_card: Card },
    /// The PIN card, of another group, takes the place of the caller's card.
    PinTakesOver { card: Card, pin_card: Card },
    /// The PIN card becomes the caller's.
    PinSold { pin_card: Card },
}

impl Deed {
    /// The errors in the contract's order, then the row that applies.
    async fn choose(connection: &mut PgConnection, desk: &Desk<'_>, wish: &Wish, found: Found) -> Result<Self, Fault> {
        let Found { holder, pin_card } = found;
        let owner = desk.caller.owner();
        match &holder {
            Holder::Device(device) if device.is_providers => return Err(Fault::CallerIdOfProvider),
            Holder::Device(device) if device.owner_id != Some(owner) => return Err(Fault::CallerIdOfOthersDevice),
            Holder::Card(card) if card.owner_id != owner => return Err(Fault::CardOfAnotherOwner),
            _ => {}
        }
        let pin_card = match &wish.pin {
            None => None,
            Some(_) => Some(usable_pin_card(desk, &holder, pin_card)?),
        };
        let group = named_group(connection, desk, wish, &holder).await?;
        let deed = match (holder, pin_card, group) {
            (Holder::Device(device), Some(pin_card), _) => Self::PinToUser { device, pin_card },
            (Holder::Card(card), Some(pin_card), _) if card.cardgroup_id == pin_card.cardgroup_id => {
                Self::PinToCard { card, pin_card }
            }
            (Holder::Card(card), Some(pin_card), _) => Self::PinTakesOver { card, pin_card },
            (Holder::Nobody, Some(pin_card), _) => Self::PinSold { pin_card },
            (Holder::Device(device), None, _) => Self::RefillUser { device },
            (Holder::Card(card), None, Some(group)) if group.id != card.cardgroup_id => Self::Replace { card, group },
            (Holder::Card(card), None, _) => Self::TopUp { card },
            (Holder::Nobody, None, Some(group)) => Self::Create { group },
            (Holder::Nobody, None, None) => return Err(Fault::NothingFound),
        };
        deed.is_possible(desk, wish)?;
        Ok(deed)
    }

    /// What no row of the tables has words for: amounts that can't be added, cards that an X7 server can't save.
    fn is_possible(&self, desk: &Desk<'_>, wish: &Wish) -> Result<(), Fault> {
        // Of a currency that nobody knows the amount would be lost.
        let lost = match self {
            Self::TopUp { card } => card.rate == 0,
            Self::Replace { group, .. } | Self::Create { group } => group.rate == 0,
            _ => false,
        } && wish.amount != 0
            && !desk.call.dialect().loses_unknown_currencies();
        if wish.pin.is_none() && (wish.amount < 0 || lost) {
            return Err(Fault::CallerIdFailed);
        }
        if !desk.call.dialect().refuses_unsound_cards() {
            return Ok(());
        }
        let flaw = |card: &Card| card.flaw.clone().map(Fault::CardUnsound);
        let fault = match self {
            Self::TopUp { card } => card.flaw.as_ref().map(|_| Fault::CallerIdFailed),
            Self::Replace { card, .. } => flaw(card),
            Self::PinToUser { pin_card, .. } | Self::PinSold { pin_card } => flaw(pin_card),
            Self::PinToCard { card, pin_card } | Self::PinTakesOver { card, pin_card } => flaw(pin_card).or(flaw(card)),
            Self::RefillUser { .. } | Self::Create { .. } => None,
        };
        fault.map_or(Ok(()), Err)
    }
}

/// The PIN card must be the owner's and another than the caller's, with funds where they are to be moved, and unsold where it
/// is to be sold.
fn usable_pin_card(desk: &Desk<'_>, holder: &Holder, pin_card: Option<Card>) -> Result<Card, Fault> {
    let pin_card = pin_card.filter(|card| card.owner_id == desk.caller.owner()).ok_or(Fault::PinNotFound)?;
    let funds = match holder {
        Holder::Card(card) if card.id == pin_card.id => return Err(Fault::PinNotFound),
        Holder::Card(card) if card.cardgroup_id != pin_card.cardgroup_id => Some(&card.balance),
        Holder::Card(_) | Holder::Device(_) => Some(&pin_card.balance),
        Holder::Nobody => None,
    };
    match funds {
        Some(funds) if funds * &desk.conversion.rate == 0 => Err(Fault::PinBalanceZero),
        None if pin_card.sold => Err(Fault::PinAlreadySold),
        _ => Ok(pin_card),
    }
}

async fn named_group(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    wish: &Wish,
    holder: &Holder,
) -> Result<Option<Group>, Fault> {
    let Some(id) = wish.group else { return Ok(None) };
    let group = sqlx::query_as!(
        Group,
        r#"select id, number_length, pin_length, system_rate_to(tell_balance_in_currency) as "rate!"
           from cardgroups where id = $1 and owner_id = $2 and hidden = 0"#,
        id,
        desk.caller.owner()
    )
    .fetch_optional(connection)
    .await?;
    let card_found = matches!(holder, Holder::Card(_));
    group.map(Some).ok_or(Fault::GroupNotTheOwners { card_found })
}

/// Whom the reply shows.
enum Outcome {
    Card(i64),
    User(Device),
}

impl Deed {
    async fn carry_out(self, connection: &mut PgConnection, desk: &Desk<'_>, wish: &Wish) -> Result<Outcome, Fault> {
        let conversion = &desk.conversion;
        match self {
            Self::RefillUser { device } => {
                refill(connection, desk, &device, Funds::Paid(&wish.amount)).await?;
                Ok(Outcome::User(device))
            }
            Self::TopUp { card } => {
                desk.repair(connection, card.cardgroup_id).await?;
                sell_if_unsold(connection, desk, &card).await?;
                top_up(connection, desk, card.id, &wish.amount).await?;
                Ok(Outcome::Card(card.id))
            }
            Self::Replace { card, group } => {
                store::card::retire(connection, card.id).await?;
                store::card::note_move(connection, card.id, &-&card.balance, conversion).await?;
                let new = new_card(connection, desk, wish, &group, &card.balance).await?;
                Ok(Outcome::Card(new))
            }
            Self::Create { group } => {
                let new = new_card(connection, desk, wish, &group, &BigDecimal::from(0)).await?;
                Ok(Outcome::Card(new))
            }
            Self::PinToUser { device, pin_card } => {
                store::card::retire(connection, pin_card.id).await?;
                store::card::note_move(connection, pin_card.id, &-&pin_card.balance, conversion).await?;
                refill(connection, desk, &device, Funds::Moved(&pin_card.balance)).await?;
                Ok(Outcome::User(device))
            }
            Self::PinToCard { card, pin_card } => {
                desk.repair(connection, card.cardgroup_id).await?;
                store::card::retire(connection, pin_card.id).await?;
                store::card::note_move(connection, pin_card.id, &-&pin_card.balance, conversion).await?;
                sell_if_unsold(connection, desk, &card).await?;
                store::card::move_balance(connection, card.id, &pin_card.balance).await?;
                store::card::note_move(connection, card.id, &pin_card.balance, conversion).await?;
                Ok(Outcome::Card(card.id))
            }
            Self::PinTakesOver { card, pin_card } => {
                desk.repair(connection, pin_card.cardgroup_id).await?;
                if desk.call.dialect().refuses_unsound_cards() {
                    // An X7 server sells the caller's card first, though it is about to be emptied.
                    desk.repair(connection, card.cardgroup_id).await?;
                    sell_if_unsold(connection, desk, &card).await?;
                }
                sell_if_unsold(connection, desk, &pin_card).await?;
                store::card::retire(connection, card.id).await?;
                store::card::note_move(connection, card.id, &-&card.balance, conversion).await?;
                give_callerid(connection, pin_card.id, &wish.callerid).await?;
                store::card::move_balance(connection, pin_card.id, &card.balance).await?;
                store::card::note_move(connection, pin_card.id, &card.balance, conversion).await?;
                Ok(Outcome::Card(pin_card.id))
            }
            Self::PinSold { pin_card } => {
                desk.repair(connection, pin_card.cardgroup_id).await?;
                sell_if_unsold(connection, desk, &pin_card).await?;
                give_callerid(connection, pin_card.id, &wish.callerid).await?;
                Ok(Outcome::Card(pin_card.id))
            }
        }
    }
}

async fn sell_if_unsold(connection: &mut PgConnection, desk: &Desk<'_>, card: &Card) -> Result<(), Fault> {
    if card.sold { Ok(()) } else { desk.sell(connection, card.id, card.cardgroup_id).await }
}

async fn top_up(connection: &mut PgConnection, desk: &Desk<'_>, card: i64, amount: &BigDecimal) -> Result<(), Fault> {
    if *amount != 0 || desk.call.dialect().pays_nothing() {
        store::card::top_up(connection, card, amount, &desk.conversion).await?;
    }
    Ok(())
}

/// A card that was deleted may still have the caller id; it loses it.
async fn give_callerid(connection: &mut PgConnection, card: i64, callerid: &str) -> Result<(), Fault> {
    forget_deleted(connection, callerid).await?;
    sqlx::query!("update cards set callerid = $2 where id = $1", card, callerid).execute(connection).await?;
    Ok(())
}

async fn forget_deleted(connection: &mut PgConnection, callerid: &str) -> Result<(), Fault> {
    sqlx::query!("update cards set callerid = null where callerid <> '' and callerid = $1 and hidden = 1", callerid)
        .execute(connection)
        .await?;
    Ok(())
}

/// A new card of the group, sold, with what was moved to it and what is added.
async fn new_card(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    wish: &Wish,
    group: &Group,
    moved: &BigDecimal,
) -> Result<i64, Fault> {
    desk.repair(connection, group.id).await?;
    forget_deleted(connection, &wish.callerid).await?;
    let at_once = desk.call.dialect().pays_new_cards_at_once();
    for _ in 0..DRAWS {
        let card = sqlx::query_scalar!(
            "insert into cards (cardgroup_id, owner_id, number, pin, callerid, balance)
             select g.id, g.owner_id, $2, $3, $4, $5::numeric + case when $6 then
                 quotient($7, (1 + group_tax_share(g)) * system_rate_to(g.tell_balance_in_currency) * $8::numeric) else 0 end
             from cardgroups g
             where g.id = $1 and not exists (select from cards where pin <> '' and pin = $3)
                 and not exists (select from cards where number = $2 and hidden = 0)
                 and not exists (select from cards where cardgroup_id = $1 and number = $2)
             on conflict do nothing returning id",
            group.id,
            store::draw::digits(group.number_length)?,
            store::draw::digits(group.pin_length)?,
            wish.callerid,
            moved,
            at_once,
            wish.amount,
            desk.conversion.rate
        )
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(card) = card {
            desk.sell(connection, card, group.id).await?;
            if !at_once {
                top_up(connection, desk, card, &wish.amount).await?;
            }
            return Ok(card);
        }
    }
    tracing::warn!(
        group = group.id,
        "no free number and PIN was found in {DRAWS} draws: the group's lengths are too short"
    );
    Err(Fault::CallerIdFailed)
}

/// What a user is topped up with.
enum Funds<'a> {
    /// An amount, tax included.
    Paid(&'a BigDecimal),
    /// A card's balance.
    Moved(&'a BigDecimal),
}

async fn refill(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    device: &Device,
    funds: Funds<'_>,
) -> Result<(), Fault> {
    let dialect = desk.call.dialect();
    if dialect.repairs_taxes() {
        store::tax::repair_user(connection, device.user_id).await?;
    }
    let (amount, is_paid) = match funds {
        Funds::Paid(amount) if *amount == 0 && !dialect.pays_nothing() => return Ok(()),
        Funds::Paid(amount) => (amount, true),
        Funds::Moved(balance) => (balance, false),
    };
    sqlx::query!(
        "with refilled as (
             update users set balance = coalesce(balance, 0)
                 + case when $3 then quotient($2, (1 + user_tax_share(users)) * $4::numeric) else $2 end
             where id = $1
             returning id, owner_id, first_name, last_name, currency_id, user_tax_share(users) as tax_share
         )
         insert into payments (paymenttype, kind, amount, currency, user_id, owner_id, card, completed, date_added, shipped_at, description,
             first_name, last_name)
         select 'card_refill', case when $3 then 'refill' else 'transfer' end,
             case when $3 then quotient($2, 1 + tax_share) else $2 * $4::numeric end * system_rate_to(c.name), coalesce(c.name, ''), r.id, r.owner_id, 0, 1,
             now() at time zone 'utc', now() at time zone 'utc', '',
             case when $5 then first_name end, case when $5 then last_name end
         from refilled r left join currencies c on c.id = r.currency_id",
        device.user_id,
        amount,
        is_paid,
        desk.conversion.rate,
        dialect.names_refilled_users()
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl Outcome {
    async fn show(self, connection: &mut PgConnection, desk: &Desk<'_>, wish: &Wish) -> Result<Document, Fault> {
        let rate = &desk.conversion.rate;
        let nice = |amount: &Money| amount.nice(desk.conversion.digits);
        let wrapped = desk.call.dialect().wraps_in_response();
        match self {
            Self::Card(id) => {
                let card = sqlx::query!(
                    r#"select c.id, c.cardgroup_id, c.pin, c.number,
                           coalesce(c.balance, 0) * $2::numeric as "balance!: Money", coalesce(c.balance, 0) * $2::numeric * (1 + group_tax_share(g)) as "with_vat!: Money"
                       from cards c join cardgroups g on g.id = c.cardgroup_id where c.id = $1"#,
                    id,
                    rate
                )
                .fetch_one(connection)
                .await?;
                Ok(reply(wrapped, |page| {
                    page.text("status", "ok");
                    page.element("card", |element| {
                        element.text("id", card.id.to_string());
                        element.text("cardgroup_id", card.cardgroup_id.to_string());
                        element.text("balance", nice(&card.balance));
                        if wrapped {
                            element.text("balance_with_vat", nice(&card.with_vat));
                        }
                        element.text("callerid", &wish.callerid_sent);
                        element.value("pin", card.pin.as_deref());
                        element.value("number", card.number.as_deref());
                    });
                }))
            }
            Self::User(device) => {
                let user = sqlx::query!(
                    r#"select coalesce(balance, 0) * $2::numeric as "balance!: Money", coalesce(balance, 0) * $2::numeric * (1 + user_tax_share(users)) as "with_vat!: Money"
                       from users where id = $1"#,
                    device.user_id,
                    rate
                )
                .fetch_one(connection)
                .await?;
                Ok(reply(wrapped, |page| {
                    page.text("status", "ok");
                    page.text("device_id", device.id.to_string());
                    page.text("user_id", device.user_id.to_string());
                    page.text("new_balance", nice(&user.balance));
                    page.text("new_balance_with_vat", nice(&user.with_vat));
                }))
            }
        }
    }
}

fn reply(wrapped: bool, content: impl FnOnce(&mut Element<'_>)) -> Document {
    Document::new("page", |page| if wrapped { page.element("response", content) } else { content(page) })
}
