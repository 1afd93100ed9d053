//! `calling_cards_get`: the caller's cards, however many, in little memory.
//! The spec's page: `endpoints/calling_cards_get.md`.

use async_stream::try_stream;
use bigdecimal::BigDecimal;
use futures_util::{Stream, TryStreamExt};
use sqlx::Connection as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::accounts::UserType;
use crate::auth::admission::{self, Caller, RIGHT_READ};
use crate::auth::signature::HashRule;
use crate::db::pool::{Connection, Pool};
use crate::error::ApiError;
use crate::http::context::{CallContext, Operation};
use crate::money::Money;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
use crate::xml::{Element, XmlReply};

/// The operation. Its hash is of the key alone.
pub const OPERATION: Operation = Operation {
    name: "calling_cards_get",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&[])],
    spec: OperationSpec {
        summary: "Lists cards",
        description: "The caller's cards for which everything holds that is said of them, by card group and number, however many they \
            are. Texts are patterns: % stands for any characters, _ for one.",
        parameters: &[&[
            Parameter::new("number", ParamType::Text, "The number.", "111111100%").in_example(),
            Parameter::new("name", ParamType::Text, "The name.", "Anna%"),
            Parameter::new("pin", ParamType::Secret, "The PIN.", "28402719"),
            Parameter::new("batch_number", ParamType::Text, "The batch.", "2026-%"),
            Parameter::new("callerid", ParamType::Text, "The caller id.", "123"),
            Parameter::new("min_balance", ParamType::Decimal, "The balance is at least this.", "5"),
            Parameter::new("max_balance", ParamType::Decimal, "The balance is at most this.", "10"),
            Parameter::new("language", ParamType::Text, "The language, in any letter case.", "en"),
            Parameter::new("sold", ParamType::Choice(&["yes", "no"]), "Sold or not.", "yes").in_example(),
            Parameter::new("distributor", ParamType::Integer, "The user who distributes them.", "2"),
            Parameter::new("page", ParamType::Integer, "Which page, from 1 on; else everything.", "1").in_example(),
            Parameter::new("per_page", ParamType::Integer, "How many cards on a page; else 100.", "2").in_example(),
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

/// Cards on a page whose size wasn't said.
const PAGE_SIZE_DEFAULT: i64 = 100;

/// A search has its own plan, by what is searched for; and a client may take its time to read ten million cards.
const BEGIN_SEARCH: &str =
    "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on;
    set local enable_bitmapscan = on; set local enable_hashjoin = on; set local statement_timeout = '1h'";

async fn handle(call: &CallContext) -> Result<XmlReply, ApiError> {
    let caller = admission::require_calling_cards(call, RIGHT_READ).await?;
    let search = Search::read(call, &caller).ok_or(NOT_FOUND)?;
    let shows_pins = search.shows_pins;
    let turn = call.state.acquire_list_permit().await.ok_or(ApiError::Unavailable)?;
    let cards = stream_cards(call.state.pool.clone(), search, turn);
    let write = move |list: &mut Element<'_>, card: &Card| write_card(list, card, shows_pins);
    XmlReply::stream_list("page", "cards", cards, |card| card.cardgroup_id, write).await?.ok_or(NOT_FOUND)
}

const NOT_FOUND: ApiError = ApiError::Refused("Cards were not found");

/// What is looked for: everything that is said, all together.
#[derive(Debug)]
struct Search {
    /// In the groups of this owner. `None`: of everybody.
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
    /// How many cards, and how many to pass over before them.
    limit: Option<i64>,
    offset: Option<i64>,
    shows_pins: bool,
}

impl Search {
    /// `None`: whatever there is, this search may not find it.
    fn read(call: &CallContext, caller: &Caller) -> Option<Self> {
        let (params, dialect) = (&call.params, call.dialect());
        let pattern = |name| Pattern::new(params.non_blank(name));
        let shows_pins = caller.usertype() != UserType::Accountant || caller.right("callingcard_pin") > 0;
        // By patterns a PIN that isn't shown would soon be guessed.
        if params.non_blank("pin").is_some() && !shows_pins && !dialect.allows_hidden_pin_search() {
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
        let everything = dialect.accepts_wildcard_filters();
        let language = params.non_blank("language").filter(|language| !everything || *language != "All");
        let distributor = params.non_blank("distributor").map(number::parse_integer);
        let page = |name| params.non_blank(name).map(|text| number::parse_integer(text).max(1));
        let limit = page("per_page").or(page("page").and(Some(PAGE_SIZE_DEFAULT)));
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
            distributor: distributor.filter(|user| !everything || *user != -1),
            limit,
            offset: limit.zip(page("page")).map(|(limit, page)| limit.saturating_mul(page - 1)),
            shows_pins,
        })
    }
}

/// A pattern of SQL's LIKE, in any letter case.
#[derive(Debug)]
struct Pattern {
    like: Option<String>,
    /// The same, where only one text matches: an index finds that.
    exact: Option<String>,
}

impl Pattern {
    fn new(text: Option<&str>) -> Self {
        let is_plain =
            |char: char| !matches!(char, '%' | '_' | '\\') && (char.is_ascii_digit() || !char.is_alphabetic());
        let text = text.map(|text| {
            // A lone one at the end stands for itself, as in MOR's database.
            let lone = text.chars().rev().take_while(|char| *char == '\\').count() % 2 == 1;
            if lone { format!("{text}\\") } else { text.to_owned() }
        });
        match text.as_ref().is_some_and(|text| text.chars().all(is_plain)) {
            true => Self { like: None, exact: text },
            false => Self { like: text, exact: None },
        }
    }
}

/// What is shown of a card.
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

/// The cards by group and number: the order of an index, so that nothing is gathered or sorted on the way.
fn stream_cards(pool: Pool, search: Search, turn: OwnedSemaphorePermit) -> impl Stream<Item = sqlx::Result<Card>> {
    try_stream! {
        let mut lease = CloseUnlessDrained { connection: pool.acquire().await?, is_drained: false };
        let mut transaction = lease.connection.begin_with(BEGIN_SEARCH).await?;
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
        lease.is_drained = true;
        drop(turn);
    }
}

/// A connection that is closed unless everything was read from it: nobody wants the rest of ten million cards when the
/// client has gone.
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
