//! `calling_cards_get`: lists the caller's cards. The reply is streamed, so that long lists need little memory.
//! Contract: `endpoints/calling_cards_get.md`.

use async_stream::try_stream;
use bigdecimal::BigDecimal;
use futures_util::{Stream, TryStreamExt};
use sqlx::Connection as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::accounts::UserType;
use crate::auth::admission;
use crate::auth::caller::{Caller, RIGHT_READ, rights};
use crate::auth::signature::HashRule;
use crate::db::pool::{Connection, Pool};
use crate::error::ApiError;
use crate::http::context::{CallContext, Operation};
use crate::money::Money;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
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
    handler: |call| Box::pin(handle(call)),
};

/// Number of cards on a page if `per_page` is not sent.
const PAGE_SIZE_DEFAULT: i64 = 100;

/// Begins the transaction of a search. The statement is planned for the filters of the request, and a slow client may
/// need long to read ten million cards.
const BEGIN_SEARCH: &str =
    "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on;
    set local enable_bitmapscan = on; set local enable_hashjoin = on; set local statement_timeout = '1h'";

async fn handle(call: &CallContext) -> Result<XmlReply, ApiError> {
    let caller = admission::require_calling_cards(call, RIGHT_READ).await?;
    let search = Search::read(call, &caller).ok_or(NOT_FOUND)?;
    let shows_pins = search.shows_pins;
    let permit = call.state.acquire_list_permit().await.ok_or(ApiError::Unavailable)?;
    let cards = stream_cards(call.state.pool.clone(), search, permit);
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

/// A pattern for SQL's `ilike`. Both fields are `None` if no filter is set.
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

/// Streams the cards in the order of an index (group, number), so that PostgreSQL need not sort or buffer them.
fn stream_cards(pool: Pool, search: Search, permit: OwnedSemaphorePermit) -> impl Stream<Item = sqlx::Result<Card>> {
    try_stream! {
        let mut guard = CloseUnlessDrained { connection: pool.acquire().await?, is_drained: false };
        let mut transaction = guard.connection.begin_with(BEGIN_SEARCH).await?;
        let mut cards = sqlx::query_as!(
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
               where c.hidden = 0 and g.hidden = 0 and ($1::integer is null or g.owner_id = $1)
                   and ($2::text is null or c.number = $2) and ($3::text is null or c.number ilike $3)
                   and ($4::text is null or c.pin = $4) and ($5::text is null or c.pin ilike $5)
                   and ($6::text is null or c.callerid = $6) and ($7::text is null or c.callerid ilike $7)
                   and ($8::text is null or c.name ilike $8) and ($9::text is null or c.batch_number ilike $9)
                   and ($10::numeric is null or coalesce(c.balance, 0) >= $10) and ($11::numeric is null or coalesce(c.balance, 0) <= $11)
                   and ($12::text is null or lower(c.language) = lower($12)) and ($13::smallint is null or c.sold = $13)
                   and ($14::bigint is null or c.user_id = $14)
               order by c.cardgroup_id, c.number limit $15 offset $16"#,
            search.owner,
            search.number.exact,
            search.number.like,
            search.pin.exact,
            search.pin.like,
            search.callerid.exact,
            search.callerid.like,
            search.name.like.or(search.name.exact),
            search.batch_number.like.or(search.batch_number.exact),
            search.min_balance,
            search.max_balance,
            search.language,
            search.sold,
            search.distributor,
            search.limit,
            search.offset
        )
        .fetch(&mut *transaction);
        while let Some(card) = cards.try_next().await? {
            yield card;
        }
        drop(cards);
        drop(transaction);
        guard.is_drained = true;
        drop(permit);
    }
}

/// A connection that is closed on drop unless all rows were read: if the client disconnects, the remaining rows, maybe
/// millions, need not be read.
struct CloseUnlessDrained {
    connection: Connection,
    is_drained: bool,
}

impl Drop for CloseUnlessDrained {
    fn drop(&mut self) {
        if !self.is_drained {
            self.connection.close_on_drop();
        }
    }
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
