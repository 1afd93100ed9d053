//! `calling_cards_get`: lists the caller's cards. The reply is streamed, so that long lists need little memory.
//! Contract: `endpoints/calling_cards_get.md`.

use bigdecimal::BigDecimal;
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection};

use crate::accounts::UserType;
use crate::auth::admission;
use crate::auth::caller::{Caller, RIGHT_READ, rights};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::money::Money;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::pin::Pin;
use crate::store::pages::{
    self, BEGIN_NEXT_PAGE, BEGIN_UNNUMBERED, LIST_DURATION_MAX, ListConnections, PAGE_ROWS, PageReader,
};
use crate::xml::{Element, XmlReply};

/// The operation's description and handler. No parameter is hashed: the hash is the SHA-1 of the key.
pub const OPERATION: Operation = Operation {
    name: "calling_cards_get",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&[])],
    spec: OperationSpec {
        summary: "Lists cards",
        description: "Lists the caller's cards that match all sent filters, ordered by card group and number. Text \
            filters are patterns: % matches any characters, _ matches one.",
        parameters: &[&[
            Parameter::new("number", ParamType::Text, "The card number.", "111111100%").in_example(),
            Parameter::new("name", ParamType::Text, "The name of the card.", "Anna%"),
            Parameter::new("pin", ParamType::Secret, "The PIN.", "28402719"),
            Parameter::new("batch_number", ParamType::Text, "The batch.", "2026-%"),
            Parameter::new("callerid", ParamType::Text, "The caller id.", "123"),
            Parameter::new("min_balance", ParamType::Decimal, "The lowest balance.", "5"),
            Parameter::new("max_balance", ParamType::Decimal, "The highest balance.", "10"),
            Parameter::new("language", ParamType::Text, "The language; letter case is ignored.", "en"),
            Parameter::new("sold", ParamType::Choice(&["yes", "no"]), "Whether the card is sold.", "yes").in_example(),
            Parameter::new("distributor", ParamType::Integer, "The user who distributes the cards.", "2"),
            Parameter::new(
                "page",
                ParamType::Integer,
                "The page of the list, starting at 1; default: the whole list.",
                "1",
            )
            .in_example(),
            Parameter::new("per_page", ParamType::Integer, "How many cards on a page; default: 100.", "2").in_example(),
        ]],
        is_mutation: false,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <cards>
    <card>
      <card_id>1</card_id>
      <card_number>1111111000</card_number>
      <card_name></card_name>
      <card_pin>28402719</card_pin>
      <card_batch_number></card_batch_number>
      <card_callerid/>
      <card_balance>8.403361344537815</card_balance>
      <card_minimal_balance>0.0</card_minimal_balance>
      <card_first_use></card_first_use>
      <card_daily_charge_paid_till></card_daily_charge_paid_till>
      <card_sold>1</card_sold>
      <card_language>en</card_language>
    </card>
  </cards>
</page>",
    },
    access: Access::CallingCards(RIGHT_READ),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

/// Number of cards on a page if `per_page` is not sent.
const PAGE_SIZE_DEFAULT: i64 = 100;

/// Begins the first statement of a list. It is planned for the filters of the request, and may read the whole table: a
/// filter can match few cards. A statement may take ten minutes: to read ten million cards took one minute.
const BEGIN_FIRST: &str =
    "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on;
    set local enable_bitmapscan = on; set local enable_hashjoin = on; set local statement_timeout = '10min'";

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let search = Search::read(call, caller).ok_or(NOT_FOUND)?;
    let shows_pins = search.shows_pins;
    let permit = call.acquire_list_permit(caller.id()).await?;
    let connections = ListConnections::new(call.state.pool.clone(), permit);
    let reader = CardReader { connections, remaining: search.limit, search, position: Some(Position::Start) };
    let cards = pages::stream_pages(reader, LIST_DURATION_MAX);
    let write = move |list: &mut Element<'_>, card: &Card| write_card(list, card, shows_pins);
    XmlReply::stream_list("page", "cards", cards, |card| card.cardgroup_id, write).await?.ok_or(NOT_FOUND)
}

const NOT_FOUND: ApiError = ApiError::Refused("Cards were not found");

/// The filters of the request. A card must match all of them. `list.sql` reads the serialized fields by name.
#[derive(Debug, Serialize)]
struct Search {
    /// The owner of the card groups. `None`: any owner.
    owner: Option<i32>,
    number: Pattern,
    name: Option<String>,
    pin: Pattern,
    batch_number: Option<String>,
    callerid: Pattern,
    min_balance: Option<BigDecimal>,
    max_balance: Option<BigDecimal>,
    language: Option<String>,
    sold: Option<i16>,
    distributor: Option<i64>,
    /// The maximum number of cards.
    #[serde(skip)]
    limit: Option<i64>,
    /// How many cards to skip before the first one.
    #[serde(skip)]
    offset: Option<i64>,
    #[serde(skip)]
    shows_pins: bool,
}

impl Search {
    /// Reads the filters. `None`: the caller may not search by PIN, so that no card is found.
    fn read(call: &CallContext, caller: &Caller) -> Option<Self> {
        let (params, dialect) = (&call.params, call.dialect());
        let pattern = |name| params.non_blank(name).map(like_pattern);
        let shows_pins = caller.usertype() != UserType::Accountant || caller.right(rights::CALLINGCARD_PIN) > 0;
        // With patterns, a caller who may not see PINs could find them out.
        if params.non_blank("pin").is_some() && !shows_pins && !dialect.allows_hidden_pin_search() {
            admission::log_missing_right(call, caller, rights::CALLINGCARD_PIN);
            return None;
        }
        let amount = |name| {
            let text = params.non_blank(name)?;
            Some(if dialect.accepts_decimal_comma() {
                number::parse_decimal(&text.replace(',', "."))
            } else {
                number::parse_decimal(text)
            })
        };
        let accepts_wildcards = dialect.accepts_wildcard_filters();
        let language = params.non_blank("language").filter(|language| !accepts_wildcards || *language != "All");
        let distributor = params.non_blank("distributor").map(number::parse_integer);
        let positive_integer = |name| params.non_blank(name).map(|text| number::parse_integer(text).max(1));
        let limit = positive_integer("per_page").or(positive_integer("page").and(Some(PAGE_SIZE_DEFAULT)));
        Some(Self {
            owner: caller.owner_scope(),
            number: Pattern::new(pattern("number")),
            name: pattern("name"),
            pin: Pattern::new(pattern("pin")),
            batch_number: pattern("batch_number"),
            callerid: Pattern::new(pattern("callerid")),
            min_balance: amount("min_balance"),
            max_balance: amount("max_balance"),
            language: language.map(str::to_owned),
            sold: match params.get("sold") {
                Some("yes") => Some(1),
                Some("no") => Some(0),
                _ => None,
            },
            distributor: distributor.filter(|user| !accepts_wildcards || *user != -1),
            limit,
            offset: limit.zip(positive_integer("page")).map(|(limit, page)| limit.saturating_mul(page - 1)),
            shows_pins,
        })
    }
}

/// A filter of a text column that has an index. Both fields are `None` if no filter is set.
#[derive(Debug, Serialize)]
struct Pattern {
    /// A pattern for SQL's `like`, on texts with folded case.
    like: Option<String>,
    /// Set instead of `like` if only one text matches the pattern: the comparison can use the index.
    exact: Option<String>,
}

impl Pattern {
    fn new(pattern: Option<String>) -> Self {
        let is_plain =
            |char: char| !matches!(char, '%' | '_' | '\\') && (char.is_ascii_digit() || !char.is_alphabetic());
        match pattern.as_ref().is_some_and(|pattern| pattern.chars().all(is_plain)) {
            true => Self { like: None, exact: pattern },
            false => Self { like: pattern, exact: None },
        }
    }
}

/// Returns the pattern for SQL's `like`. As in MOR's database, an unescaped backslash at the end matches a backslash.
fn like_pattern(text: &str) -> String {
    let ends_unescaped = text.chars().rev().take_while(|char| *char == '\\').count() % 2 == 1;
    if ends_unescaped { format!("{text}\\") } else { text.to_owned() }
}

/// The fields of a card in the reply.
#[derive(Debug)]
struct Card {
    cardgroup_id: i32,
    id: i64,
    number: Option<String>,
    name: Option<String>,
    pin: Option<Pin>,
    batch_number: Option<String>,
    callerid: Option<String>,
    balance: Money,
    min_balance: Money,
    first_use: String,
    daily_charge_paid_till: String,
    sold: i16,
    language: Option<String>,
    distributor: Option<String>,
}

/// Where the next statement of a list starts. The order is that of the index `cards_group_number`: by group, then by
/// number, then the cards of the group without a number, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
enum Position {
    Start,
    /// After the card with this number. The statement reads cards of this group only.
    AfterNumber {
        group: i32,
        number: String,
    },
    /// After the card of this group that has no number and this id. The statement reads only such cards.
    AfterUnnumbered {
        group: i32,
        id: i64,
    },
    AfterGroup {
        group: i32,
    },
}

/// Reads the cards that match a search.
struct CardReader {
    connections: ListConnections,
    search: Search,
    /// The number of cards that may still be listed. `None`: no limit.
    remaining: Option<i64>,
    /// `None`: all cards have been read.
    position: Option<Position>,
}

impl PageReader for CardReader {
    type Row = Card;

    async fn next_page(&mut self) -> sqlx::Result<Option<Vec<Card>>> {
        let Self { connections, search, remaining, position } = self;
        let limit = remaining.unwrap_or(PAGE_ROWS).min(PAGE_ROWS);
        if limit == 0 || position.is_none() {
            return Ok(None);
        }
        // Several statements fill a page, so that many small groups need few pages.
        let read = async |connection: &mut PgConnection| {
            let mut page = Vec::new();
            let mut missing = limit;
            while missing > 0
                && let Some(start) = position.take()
            {
                let mut cards = read_cards(connection, search, &start, missing).await?;
                *position = next_position(start, &mut cards, missing);
                missing -= i64::try_from(cards.len()).unwrap_or(i64::MAX);
                page.append(&mut cards);
            }
            *remaining = remaining.map(|remaining| remaining - (limit - missing));
            Ok(page)
        };
        let page = connections.with_connection(read).await?;
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}

/// Returns where the statement after the one that read `cards` starts. `limit` is the limit of that statement. `None`:
/// no cards are left.
fn next_position(start: Position, cards: &mut Vec<Card>, limit: i64) -> Option<Position> {
    let last = cards.last().filter(|_| i64::try_from(cards.len()) == Ok(limit));
    match (last, start) {
        (None, Position::Start | Position::AfterGroup { .. }) => None,
        (None, Position::AfterNumber { group, .. }) => Some(Position::AfterUnnumbered { group, id: i64::MIN }),
        (None, Position::AfterUnnumbered { group, .. }) => Some(Position::AfterGroup { group }),
        (Some(Card { cardgroup_id, number: Some(number), .. }), _) => {
            Some(Position::AfterNumber { group: *cardgroup_id, number: number.clone() })
        }
        // The group's cards without a number are not sorted by id here: all of them are read again.
        (Some(&Card { cardgroup_id, number: None, .. }), Position::AfterGroup { .. }) => {
            cards.retain(|card| card.cardgroup_id != cardgroup_id || card.number.is_some());
            Some(Position::AfterUnnumbered { group: cardgroup_id, id: i64::MIN })
        }
        (Some(&Card { cardgroup_id, id, number: None, .. }), _) => {
            Some(Position::AfterUnnumbered { group: cardgroup_id, id })
        }
    }
}

/// Reads the first `limit` cards after `start`, with a snapshot of its own.
async fn read_cards(
    connection: &mut PgConnection,
    search: &Search,
    start: &Position,
    limit: i64,
) -> sqlx::Result<Vec<Card>> {
    let (begin, offset) = match start {
        Position::Start => (BEGIN_FIRST, search.offset),
        Position::AfterUnnumbered { .. } => (BEGIN_UNNUMBERED, None),
        Position::AfterNumber { .. } | Position::AfterGroup { .. } => (BEGIN_NEXT_PAGE, None),
    };
    let mut transaction = connection.begin_with(begin).await?;
    let cards =
        sqlx::query_file_as!(Card, "src/operations/card/list.sql", Json(search) as _, Json(start) as _, limit, offset)
            .fetch_all(&mut *transaction)
            .await?;
    transaction.commit().await?;
    Ok(cards)
}

fn write_card(list: &mut Element<'_>, card: &Card, shows_pins: bool) {
    list.element("card", |item| {
        item.text("card_id", card.id.to_string());
        item.optional_text("card_number", card.number.as_deref());
        item.optional_text("card_name", card.name.as_deref());
        if shows_pins {
            item.optional_text("card_pin", card.pin.as_ref().map(Pin::expose));
        }
        item.optional_text("card_batch_number", card.batch_number.as_deref());
        item.optional_text("card_callerid", card.callerid.as_deref());
        item.text("card_balance", card.balance.to_plain_string());
        item.text("card_minimal_balance", card.min_balance.to_plain_string());
        item.text("card_first_use", &card.first_use);
        item.text("card_daily_charge_paid_till", &card.daily_charge_paid_till);
        item.text("card_sold", card.sold.to_string());
        item.optional_text("card_language", card.language.as_deref());
        if let Some(distributor) = &card.distributor {
            item.text("card_distributor", distributor);
        }
    });
}
