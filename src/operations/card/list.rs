//! `calling_cards_get`: lists the caller's cards. The reply is streamed, so that long lists need little memory.
//! Contract: `endpoints/calling_cards_get.md`.

use bigdecimal::BigDecimal;
use sqlx::{Connection as _, PgConnection};

use crate::accounts::UserType;
use crate::auth::admission;
use crate::auth::caller::{Caller, RIGHT_READ, rights};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::money::Money;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
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

/// The filters of the request. A card must match all of them.
#[derive(Debug)]
struct Search {
    /// The owner of the card groups. `None`: any owner.
    owner: Option<i32>,
    number: Pattern,
    name: Pattern,
    pin: Pattern,
    batch_number: Pattern,
    callerid: Pattern,
    min_balance: Option<BigDecimal>,
    max_balance: Option<BigDecimal>,
    language: Option<String>,
    sold: Option<i16>,
    distributor: Option<i64>,
    /// The maximum number of cards.
    limit: Option<i64>,
    /// How many cards to skip before the first one.
    offset: Option<i64>,
    shows_pins: bool,
}

impl Search {
    /// Reads the filters. `None`: the caller may not search by PIN, so that no card is found.
    fn read(call: &CallContext, caller: &Caller) -> Option<Self> {
        let (params, dialect) = (&call.params, call.dialect());
        let pattern = |name| Pattern::new(params.non_blank(name));
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
            number: pattern("number"),
            name: pattern("name"),
            pin: pattern("pin"),
            batch_number: pattern("batch_number"),
            callerid: pattern("callerid"),
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

/// A pattern for SQL's `like`, on texts with folded case. Both fields are `None` if no filter is set.
#[derive(Debug)]
struct Pattern {
    like: Option<String>,
    /// Set instead of `like` if only one text matches the pattern: the comparison can use an index.
    exact: Option<String>,
}

impl Pattern {
    fn new(text: Option<&str>) -> Self {
        let is_plain =
            |char: char| !matches!(char, '%' | '_' | '\\') && (char.is_ascii_digit() || !char.is_alphabetic());
        let text = text.map(|text| {
            // As in MOR's database, an unescaped backslash at the end matches a backslash.
            let ends_unescaped = text.chars().rev().take_while(|char| *char == '\\').count() % 2 == 1;
            if ends_unescaped { format!("{text}\\") } else { text.to_owned() }
        });
        match text.as_ref().is_some_and(|text| text.chars().all(is_plain)) {
            true => Self { like: None, exact: text },
            false => Self { like: text, exact: None },
        }
    }

    /// The pattern, for a column without an index.
    fn text(&self) -> Option<&str> {
        self.like.as_deref().or(self.exact.as_deref())
    }
}

/// The fields of a card in the reply.
#[derive(Debug)]
struct Card {
    cardgroup_id: i32,
    id: i64,
    number: Option<String>,
    name: Option<String>,
    pin: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
enum Position {
    Start,
    /// After the card with this number. The statement reads cards of this group only.
    AfterNumber(i32, String),
    /// After the card of this group that has no number and this id. The statement reads only such cards.
    AfterUnnumbered(i32, i64),
    AfterGroup(i32),
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
        (None, Position::Start | Position::AfterGroup(_)) => None,
        (None, Position::AfterNumber(group, _)) => Some(Position::AfterUnnumbered(group, i64::MIN)),
        (None, Position::AfterUnnumbered(group, _)) => Some(Position::AfterGroup(group)),
        (Some(Card { cardgroup_id, number: Some(number), .. }), _) => {
            Some(Position::AfterNumber(*cardgroup_id, number.clone()))
        }
        // The group's cards without a number are not sorted by id here: all of them are read again.
        (Some(&Card { cardgroup_id, number: None, .. }), Position::AfterGroup(_)) => {
            cards.retain(|card| card.cardgroup_id != cardgroup_id || card.number.is_some());
            Some(Position::AfterUnnumbered(cardgroup_id, i64::MIN))
        }
        (Some(&Card { cardgroup_id, id, number: None, .. }), _) => Some(Position::AfterUnnumbered(cardgroup_id, id)),
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
        Position::AfterUnnumbered(..) => (BEGIN_UNNUMBERED, None),
        Position::AfterNumber(..) | Position::AfterGroup(_) => (BEGIN_NEXT_PAGE, None),
    };
    let after_number = if let Position::AfterNumber(group, number) = start { Some((*group, number)) } else { None };
    let after_unnumbered = if let Position::AfterUnnumbered(group, id) = start { Some((*group, *id)) } else { None };
    let after_group = if let Position::AfterGroup(group) = start { Some(*group) } else { None };
    // Numbers of a group are distinct: only cards without a number need the order by id, which the index does not have.
    let orders_by_id = matches!(start, Position::Start | Position::AfterUnnumbered(..));
    let mut transaction = connection.begin_with(begin).await?;
    // The plan is made for these values: the conditions that do not apply are removed from it.
    let cards = sqlx::query_as!(
        Card,
        r#"select c.cardgroup_id, c.id, c.number, c.name, c.pin, c.batch_number, c.callerid,
               coalesce(c.balance, 0) as "balance!: Money", coalesce(c.min_balance, 0) as "min_balance!: Money",
               coalesce(to_char(c.first_use, 'YYYY-MM-DD HH24:MI:SS'), '') as "first_use!",
               coalesce(to_char(c.daily_charge_paid_till, 'YYYY-MM-DD HH24:MI:SS'), '') as "daily_charge_paid_till!",
               c.sold, c.language,
               coalesce(nullif(btrim(u.first_name || ' ' || u.last_name), ''), u.username) as distributor
           from cards c
           join cardgroups g on g.id = c.cardgroup_id
           left join users u on u.id = c.user_id
           where c.hidden = 0 and c.quarantined_at is null and g.hidden = 0 and ($1::integer is null or g.owner_id = $1)
               and ($2::text is null or c.number = $2) and ($3::text is null or fold_case(c.number) like fold_case($3))
               and ($4::text is null or c.pin = $4) and ($5::text is null or fold_case(c.pin) like fold_case($5))
               and ($6::text is null or c.callerid = $6) and ($7::text is null or fold_case(c.callerid) like fold_case($7))
               and ($8::text is null or fold_case(c.name) like fold_case($8)) and ($9::text is null or fold_case(c.batch_number) like fold_case($9))
               and ($10::numeric is null or coalesce(c.balance, 0) >= $10) and ($11::numeric is null or coalesce(c.balance, 0) <= $11)
               and ($12::text is null or fold_case(c.language) = fold_case($12)) and ($13::smallint is null or c.sold = $13)
               and ($14::bigint is null or c.user_id = $14)
               and ($15::integer is null or (c.cardgroup_id, c.number) > ($15, $16::text) and c.cardgroup_id <= $15)
               and ($17::integer is null or c.cardgroup_id = $17 and c.number is null and c.id > $18::bigint)
               and ($19::integer is null or c.cardgroup_id > $19)
           order by c.cardgroup_id, c.number, case when $20 then c.id end limit $21 offset $22"#,
        search.owner,
        search.number.exact.as_deref(),
        search.number.like.as_deref(),
        search.pin.exact.as_deref(),
        search.pin.like.as_deref(),
        search.callerid.exact.as_deref(),
        search.callerid.like.as_deref(),
        search.name.text(),
        search.batch_number.text(),
        search.min_balance.as_ref(),
        search.max_balance.as_ref(),
        search.language.as_deref(),
        search.sold,
        search.distributor,
        after_number.map(|(group, _)| group),
        after_number.map(|(_, number)| number),
        after_unnumbered.map(|(group, _)| group),
        after_unnumbered.map(|(_, id)| id),
        after_group,
        orders_by_id,
        limit,
        offset
    )
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
            item.optional_text("card_pin", card.pin.as_deref());
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
