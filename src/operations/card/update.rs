//! `calling_card_update`: changes a card; what isn't sent stays as it is.
//! The spec's page: `endpoints/calling_card_update.md`.

use bigdecimal::{BigDecimal, RoundingMode};
use sqlx::PgConnection;

use crate::accounts::UserType;
use crate::auth::admission::{self, Caller, EDIT};
use crate::auth::signature::Rule;
use crate::error::{Fault, on_constraints};
use crate::http::context::{Call, Operation};
use crate::http::params::Params;
use crate::idempotency::Once;
use crate::number;
use crate::operations::spec::{Kind, Page, Parameter};
use crate::store;
use crate::xml::Document;

/// The operation.
pub const OPERATION: Operation = Operation {
    name: "calling_card_update",
    aliases: &[],
    hashed: &[Rule::Exactly(&["card_id"])],
    page: Page {
        summary: "Changes a card",
        description: "Changes what is sent of a card. What isn't sent, or is blank, stays as it is; at the first thing that is wrong \
            nothing is changed.",
        parameters: &[&[
            Parameter::new("card_id", Kind::Integer, "The card, by its id.", "1").required(),
            Parameter::new(
                "number",
                Kind::Text,
                "Its number: digits, as many as the group's numbers have.",
                "1111111000",
            ),
            Parameter::new("name", Kind::Text, "Its name.", "Anna").usual(),
            Parameter::new("batch_number", Kind::Text, "Its batch.", "2026-11").usual(),
            Parameter::new("language", Kind::Text, "Its language, up to 10 characters.", "en"),
            Parameter::new("pin", Kind::Secret, "Its PIN, as long as the group's PINs are.", "28402719"),
            Parameter::new("callerid", Kind::Text, "Its caller id, which no other card has.", "4444"),
            Parameter::new("min_balance", Kind::Decimal, "Its least balance, above 0.", "0.5"),
            Parameter::new("daily_charge_paid_till", Kind::Moment, "Till when the daily charge is paid.", "1767225600"),
            Parameter::new("first_use", Kind::Moment, "When it was first used; -1: never.", "1767225600"),
            Parameter::new("distributor", Kind::Integer, "The user who distributes it.", "2"),
        ]],
        changes: true,
        reply: "<page>
  <status>
    <success>Calling Card successfully updated</success>
  </status>
</page>",
    },
    handler: |call| Box::pin(answer(call)),
};

/// MOR's column.
const LONGEST_LANGUAGE: usize = 10;
/// The last second of the year 9999, where MOR's dates end.
const LAST_SECOND: i64 = 253_402_300_799;

const NUMBER_TAKEN: Fault = Fault::Refused("Number is already taken");
const PIN_TAKEN: Fault = Fault::Refused("PIN is already taken");
const CALLERID_TAKEN: Fault = Fault::Refused("CallerID must be unique");

async fn answer(call: &Call) -> Result<Document, Fault> {
    let caller = admission::admit_to_calling_cards(call, EDIT).await?;
    let once = Once::new(call, &caller).await?;
    let reply = |()| Document::status("success", "Calling Card successfully updated");
    once.answer(update(call, &caller, &once), reply).await
}

async fn update(call: &Call, caller: &Caller, once: &Once<'_>) -> Result<(), Fault> {
    let id = call.params.filled("card_id").filter(|id| call.dialect().is_digits(id));
    let id = id.map(number::integer).ok_or(Fault::Refused("Wrong Calling Card ID"))?;
    // Whoever makes a card for the caller id at the same time goes before this request or after it.
    let callerid = CallerId::read(call);
    let _turn = match callerid.kept() {
        Some(callerid) => Some(call.app.callerid_turn(callerid).await.ok_or(Fault::Unavailable)?),
        None => None,
    };
    let mut change = once.begin().await?;
    if let Some(callerid) = callerid.kept() {
        store::caller_id::take_turn(&mut change, callerid).await?;
        store::caller_id::lock(&mut change, callerid, id).await?;
    }
    let card = Card::find(&mut change, call, caller, id, callerid.kept()).await?;
    let wish = Wish::read(call, caller, &card, callerid)?;
    write(&mut change, caller, id, &wish).await?;
    change.commit(()).await
}

/// The caller id that is sent. It is needed before its turn comes to be judged.
enum CallerId {
    Unsent,
    TooLong,
    /// As it is kept.
    Kept(String),
}

impl CallerId {
    fn read(call: &Call) -> Self {
        let Some(sent) = call.params.filled("callerid") else { return Self::Unsent };
        call.dialect().fit(sent, store::caller_id::LONGEST).map_or(Self::TooLong, Self::Kept)
    }

    fn kept(&self) -> Option<&str> {
        if let Self::Kept(callerid) = self { Some(callerid) } else { None }
    }
}

/// The card that is changed, locked, and what the database has to say about the request.
#[derive(Debug)]
struct Card {
    group_owner: Option<i32>,
    number_length: i32,
    pin_length: i32,
    /// Another card has the number that was sent; so with the next two.
    number_taken: bool,
    pin_taken: bool,
    callerid_taken: bool,
}

impl Card {
    async fn find(
        connection: &mut PgConnection,
        call: &Call,
        caller: &Caller,
        id: i64,
        callerid: Option<&str>,
    ) -> Result<Self, Fault> {
        let card = sqlx::query_as!(
            Card,
            r#"select g.owner_id as group_owner, g.number_length, g.pin_length,
                   exists (select from cards o where o.number = $2 and o.hidden = 0 and o.id <> c.id)
                       or exists (select from cards o where o.cardgroup_id = c.cardgroup_id and o.number = $2 and o.id <> c.id)
                       as "number_taken!",
                   exists (select from cards o where o.pin <> '' and o.pin = $3 and o.id <> c.id) as "pin_taken!",
                   exists (select from cards o where o.callerid <> '' and o.callerid = $4 and o.hidden = 0 and o.id <> c.id)
                       as "callerid_taken!"
               from cards c join cardgroups g on g.id = c.cardgroup_id
               where c.id = $1 and c.retired_at is null
               for no key update of c"#,
            id,
            call.params.filled("number"),
            pin(&call.params),
            callerid
        )
        .fetch_optional(connection)
        .await?;
        let not_found = if call.dialect().denies_missing_cards() {
            Fault::UnknownOperation
        } else {
            Fault::NotFound("Calling Card")
        };
        let card = card.ok_or(not_found)?;
        let owner = caller.confined_to();
        if owner.is_none() || owner == card.group_owner { Ok(card) } else { Err(Fault::NotFound("Calling Card")) }
    }
}

/// What is to be changed.
#[derive(Debug)]
struct Wish {
    number: Option<String>,
    name: Option<String>,
    batch_number: Option<String>,
    language: Option<String>,
    pin: Option<String>,
    callerid: Option<String>,
    min_balance: Option<BigDecimal>,
    /// Seconds since 1970.
    daily_charge_paid_till: Option<i64>,
    first_use: Option<FirstUse>,
    /// Whether there is such a user is seen when the card is changed.
    distributor: Option<i64>,
}

#[derive(Debug)]
enum FirstUse {
    /// The card counts as unused again.
    Never,
    /// Seconds since 1970.
    At(i64),
}

impl Wish {
    /// The parameters in the published order; the first that is wrong is the answer.
    fn read(call: &Call, caller: &Caller, card: &Card, callerid: CallerId) -> Result<Self, Fault> {
        let params = &call.params;
        let number = params.filled("number");
        if let Some(number) = number {
            if !number::is_digits(number) {
                return Err(Fault::Refused("Calling Card number must be numerical"));
            }
            if card.number_taken {
                return Err(NUMBER_TAKEN);
            }
            has_length(number, card.number_length).map_err(Fault::NumberLength)?;
        }
        let text = |name, what| params.filled(name).map(|text| call.text(text, what)).transpose();
        let name = text("name", "Name")?;
        let batch_number = text("batch_number", "Batch number")?;
        // Who may not change a PIN hears nothing of it, not even that it is in use.
        let may_change_pin = caller.usertype() != UserType::Accountant || caller.right("callingcard_pin") == EDIT;
        let pin = pin(params).filter(|_| may_change_pin);
        if let Some(pin) = pin {
            if pin.trim().is_empty() {
                return Err(Fault::Refused("Card PIN is blank"));
            }
            has_length(pin, card.pin_length).map_err(Fault::PinLength)?;
            if card.pin_taken {
                return Err(PIN_TAKEN);
            }
        }
        let callerid = match callerid {
            CallerId::Unsent => None,
            CallerId::TooLong => return Err(Fault::TooLong("CallerID")),
            CallerId::Kept(_) if card.callerid_taken => return Err(CALLERID_TAKEN),
            CallerId::Kept(callerid) => Some(callerid),
        };
        Ok(Self {
            number: number.map(str::to_owned),
            name,
            batch_number,
            language: params.filled("language").map(|language| language.chars().take(LONGEST_LANGUAGE).collect()),
            pin: pin.map(str::to_owned),
            callerid,
            min_balance: min_balance(call)?,
            daily_charge_paid_till: moment(call, "daily_charge_paid_till")?,
            first_use: match params.filled("first_use") {
                Some("-1") => Some(FirstUse::Never),
                _ => moment(call, "first_use")?.map(FirstUse::At),
            },
            distributor: distributor(params)?,
        })
    }
}

/// Spaces behind a PIN don't count.
fn pin(params: &Params) -> Option<&str> {
    params.get("pin").map(|pin| pin.trim_end_matches(' '))
}

/// Whether a text has the length that its group asks for; that length, where it hasn't.
fn has_length(text: &str, length: i32) -> Result<(), i32> {
    if i32::try_from(text.chars().count()) == Ok(length) { Ok(()) } else { Err(length) }
}

fn min_balance(call: &Call) -> Result<Option<BigDecimal>, Fault> {
    let dialect = call.dialect();
    let Some(text) = call.params.filled("min_balance") else { return Ok(None) };
    let amount = dialect.number(text).ok_or(Fault::Refused("Balance is not a numerical value"))?;
    let kept = amount.with_scale_round(dialect.decimals_of_min_balance(), RoundingMode::HalfUp);
    if kept > 0 { Ok(Some(kept)) } else { Err(Fault::Refused("Bad minimal balance")) }
}

/// Seconds since 1970; an X7 server takes those before as well.
fn moment(call: &Call, name: &str) -> Result<Option<i64>, Fault> {
    let dialect = call.dialect();
    let Some(text) = call.params.filled(name) else { return Ok(None) };
    let digits = if dialect.takes_negative_dates() { text.strip_prefix('-').unwrap_or(text) } else { text };
    let seconds = Some(number::integer(text)).filter(|_| number::is_digits(digits));
    seconds.filter(|seconds| seconds.abs() <= LAST_SECOND).map(Some).ok_or(Fault::Refused("Wrong date entered"))
}

fn distributor(params: &Params) -> Result<Option<i64>, Fault> {
    match params.filled("distributor") {
        Some(id) if !number::is_digits(id) => Err(Fault::Refused("Wrong distributor")),
        id => Ok(id.map(number::integer)),
    }
}

/// The database decides who came first to a number, a PIN or a caller id.
async fn write(connection: &mut PgConnection, caller: &Caller, id: i64, wish: &Wish) -> Result<(), Fault> {
    if let Some(callerid) = &wish.callerid {
        store::caller_id::forget_deleted(connection, callerid).await?;
    }
    let (forgets_first_use, first_use) = match wish.first_use {
        None => (false, None),
        Some(FirstUse::Never) => (true, None),
        Some(FirstUse::At(seconds)) => (false, Some(seconds)),
    };
    sqlx::query!(
        "update cards set number = coalesce($2, number), name = coalesce($3, name), batch_number = coalesce($4, batch_number),
             language = coalesce($5, language), pin = coalesce($6, pin), callerid = coalesce($7, callerid),
             min_balance = coalesce($8, min_balance),
             daily_charge_paid_till = coalesce(to_timestamp($9::bigint) at time zone 'utc', daily_charge_paid_till),
             first_use = case when $10 then null else coalesce(to_timestamp($11::bigint) at time zone 'utc', first_use) end,
             user_id = case when $12::bigint is null then user_id
                 else coalesce((select u.id from users u where u.id = $12 and u.usertype = 'user' and u.owner_id = $13), -1) end
         where id = $1",
        id,
        wish.number,
        wish.name,
        wish.batch_number,
        wish.language,
        wish.pin,
        wish.callerid,
        wish.min_balance,
        wish.daily_charge_paid_till,
        forgets_first_use,
        first_use,
        wish.distributor,
        caller.owner()
    )
    .execute(connection)
    .await
    .map_err(on_constraints(
        [
            ("cards_number", NUMBER_TAKEN),
            ("cards_group_number", NUMBER_TAKEN),
            ("cards_pin", PIN_TAKEN),
            ("cards_callerid", CALLERID_TAKEN),
        ],
        Fault::from,
    ))?;
    Ok(())
}
