//! Finds cards by what an operator knows about them, among all cards: also deleted, retired and quarantined ones.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::BackOfficeError;
use crate::number;
use crate::pin::Pin;
use crate::store::change_log::{Author, Change, Target, What};

/// Maximum number of cards that a search returns.
pub const FOUND_CARDS_MAX: usize = 100;
/// Maximum number of rows that a search for one key reads: a shop can give its own address, or one reference, to
/// millions of sales. Ten times as many payments or orders are read, whose cards can be of other owners.
const READ_ROWS_MAX: i64 = 1_000;

/// The kind of [`CardKey::Pin`].
const PIN: &str = "PIN";

/// What an operator knows about a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardKey {
    /// The id in the table `cards`.
    Id(i64),
    /// The card number.
    Number(String),
    /// The PIN.
    Pin(Pin),
    /// The caller id of the card.
    CallerId(String),
    /// The address to which the card was sent; letter case is ignored.
    Email(String),
    /// The shop's reference of a payment for the card.
    Reference(String),
    /// The printed serial number.
    Serial(String),
}

/// A card that a search has found.
#[derive(Debug, Serialize)]
pub struct FoundCard {
    /// The id in the table `cards`.
    pub id: i64,
    /// The card number.
    pub number: Option<String>,
    /// The id of the card group.
    pub cardgroup_id: i32,
    /// The name of the card group.
    pub cardgroup: String,
    /// The user name of the card's owner. `None`: the user does not exist.
    pub owner: Option<String>,
    /// As the SQL function `card_state` returns it.
    pub state: String,
    /// Whether the card counts among those of its number: it is neither deleted nor quarantined, also not retired in
    /// quarantine.
    #[serde(skip)]
    pub in_use: bool,
    /// The kinds of the keys that have found it.
    #[serde(skip)]
    pub found_by: Vec<&'static str>,
}

impl CardKey {
    /// Returns the key in words, without a PIN.
    pub fn describe(&self) -> String {
        match self {
            Self::Id(id) => format!("the id {id}"),
            Self::Number(number) => format!("the number {number}"),
            Self::Pin(_) => "this PIN".to_owned(),
            Self::CallerId(callerid) => format!("the caller id {callerid}"),
            Self::Email(email) => format!("the e-mail address {email}"),
            Self::Reference(reference) => format!("the payment reference {reference}"),
            Self::Serial(serial) => format!("the serial number {serial}"),
        }
    }

    /// Returns what a text can be, if only the text is known.
    pub fn candidates(text: &str) -> Vec<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Vec::new();
        }
        let mut keys = vec![Self::Reference(text.to_owned()), Self::Serial(text.to_owned())];
        if text.contains('@') {
            keys.push(Self::Email(text.to_owned()));
            return keys;
        }
        // Digits in groups, as they are printed on a card.
        let digits: String = text.chars().filter(|char| ![' ', '-'].contains(char)).collect();
        let grouped = Some(digits).filter(|digits| digits != text && number::is_digits(digits));
        for text in [Some(text.to_owned()), grouped].into_iter().flatten() {
            keys.extend([Self::Number(text.clone()), Self::Pin(text.as_str().into()), Self::CallerId(text)]);
        }
        keys
    }

    /// Returns the kind of the key in words, without its value.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Id(_) => "id",
            Self::Number(_) => "number",
            Self::Pin(_) => PIN,
            Self::CallerId(_) => "caller id",
            Self::Email(_) => "e-mail address",
            Self::Reference(_) => "payment reference",
            Self::Serial(_) => "serial number",
        }
    }

    /// Returns the ids of up to [`READ_ROWS_MAX`] cards, some of them several times, of one owner or of all. `true`:
    /// rows were left out before their owner was compared. Each statement reads one index.
    async fn find_ids(&self, connection: &mut PgConnection, owner_id: Option<i32>) -> sqlx::Result<(Vec<i64>, bool)> {
        let ids = match self {
            Self::Id(id) => {
                sqlx::query_scalar!(
                    "select id from cards where id = $1 and ($2::integer is null or coalesce(owner_id, 0) = $2)",
                    id,
                    owner_id
                )
                .fetch_all(connection)
                .await
            }
            Self::Number(number) => {
                sqlx::query_scalar!(
                    r#"select id as "id!" from cards
                       where number = $1 and hidden = 0 and quarantined_at is null
                           and ($3::integer is null or coalesce(owner_id, 0) = $3)
                       union all
                       (select id from cards
                        where number = $1 and (hidden <> 0 or quarantined_at is not null)
                            and ($3::integer is null or coalesce(owner_id, 0) = $3)
                        limit $2)"#,
                    number.trim(),
                    READ_ROWS_MAX,
                    owner_id
                )
                .fetch_all(connection)
                .await
            }
            Self::Pin(pin) => {
                sqlx::query_scalar!(
                    r#"select id as "id!" from cards
                       where pin <> '' and pin = $1 and hidden = 0 and quarantined_at is null
                           and ($3::integer is null or coalesce(owner_id, 0) = $3)
                       union all
                       (select id from cards
                        where pin <> '' and pin = $1 and (hidden <> 0 or quarantined_at is not null)
                            and ($3::integer is null or coalesce(owner_id, 0) = $3)
                        limit $2)"#,
                    pin.expose().trim(),
                    READ_ROWS_MAX,
                    owner_id
                )
                .fetch_all(connection)
                .await
            }
            Self::CallerId(callerid) => {
                sqlx::query_scalar!(
                    "select id from cards
                     where callerid <> '' and callerid = $1 and ($2::integer is null or coalesce(owner_id, 0) = $2)",
                    callerid.trim(),
                    owner_id
                )
                .fetch_all(connection)
                .await
            }
            Self::Email(email) => {
                let found = sqlx::query!(
                    r#"with ccorder as materialized (
                           select id from ccorders where email <> '' and fold_case(email) = fold_case($1) limit 10 * $2::bigint
                       )
                       select array(
                               select card.id
                               from ccorder,
                                   lateral (select card_id from cclineitems where ccorder_id = ccorder.id offset 0) lineitem,
                                   lateral (
                                       select id from cards
                                       where id = lineitem.card_id and ($3::integer is null or coalesce(owner_id, 0) = $3)
                                       offset 0
                                   ) card
                               limit $2
                           ) as "ids!", (select count(*) from ccorder) >= 10 * $2::bigint as "has_more!""#,
                    email.trim(),
                    READ_ROWS_MAX,
                    owner_id
                );
                let found = found.fetch_one(connection).await?;
                return Ok((found.ids, found.has_more));
            }
            Self::Reference(reference) => {
                let found = sqlx::query!(
                    r#"with payment as materialized (
                           select user_id from payments where reference = $1 and card = 1 limit 10 * $2::bigint
                       )
                       select array(
                               select card.id
                               from payment, lateral (
                                   select id from cards
                                   where id = payment.user_id and ($3::integer is null or coalesce(owner_id, 0) = $3) offset 0
                               ) card
                               limit $2
                           ) as "ids!", (select count(*) from payment) >= 10 * $2::bigint as "has_more!""#,
                    reference,
                    READ_ROWS_MAX,
                    owner_id
                );
                let found = found.fetch_one(connection).await?;
                return Ok((found.ids, found.has_more));
            }
            Self::Serial(serial) => {
                sqlx::query_scalar!(
                    "select id from cards
                     where serial = $1 and ($3::integer is null or coalesce(owner_id, 0) = $3) limit $2",
                    serial.trim(),
                    READ_ROWS_MAX,
                    owner_id
                )
                .fetch_all(connection)
                .await
            }
        }?;
        Ok((ids, false))
    }
}

/// The cards that a search has found, in the order of their numbers.
#[derive(Debug)]
pub struct FoundCards {
    /// At most [`FOUND_CARDS_MAX`] cards.
    pub cards: Vec<FoundCard>,
    /// Whether there can be more cards.
    pub has_more: bool,
}

/// Finds the cards that have any of the keys, of one owner or of all.
///
/// # Errors
///
/// Database errors.
pub async fn search(
    connection: &mut PgConnection,
    keys: &[CardKey],
    owner_id: Option<i32>,
) -> sqlx::Result<FoundCards> {
    let mut kinds: BTreeMap<i64, Vec<&'static str>> = BTreeMap::new();
    let mut has_more = false;
    for key in keys {
        let (ids, has_unread) = key.find_ids(&mut *connection, owner_id).await?;
        has_more |= has_unread || i64::try_from(ids.len()).is_ok_and(|rows| rows >= READ_ROWS_MAX);
        for id in ids {
            let found_by = kinds.entry(id).or_default();
            if !found_by.contains(&key.kind()) {
                found_by.push(key.kind());
            }
        }
    }
    has_more |= kinds.len() > FOUND_CARDS_MAX;
    let ids: Vec<i64> = kinds.keys().copied().take(FOUND_CARDS_MAX).collect();
    let rows = sqlx::query!(
        r#"select c.id, c.number, c.cardgroup_id, g.name as cardgroup, u.username as "owner?", card_state(c) as "state!",
               c.hidden = 0 and c.quarantined_at is null as "in_use!"
           from cards c join cardgroups g on g.id = c.cardgroup_id left join users u on u.id = coalesce(c.owner_id, 0)
           where c.id = any ($1)
           order by c.number collate "C", c.id"#,
        &ids
    );
    let rows = rows.fetch_all(connection).await?.into_iter();
    let cards = rows.map(|row| FoundCard {
        id: row.id,
        number: row.number,
        cardgroup_id: row.cardgroup_id,
        cardgroup: row.cardgroup,
        owner: row.owner,
        state: row.state,
        in_use: row.in_use,
        found_by: kinds.remove(&row.id).unwrap_or_default(),
    });
    Ok(FoundCards { cards: cards.collect(), has_more })
}

/// Writes a row of the change log for each card that was found by its PIN: the searcher knows the PIN now.
///
/// # Errors
///
/// Database errors.
pub async fn record_found_pins(
    connection: &mut PgConnection,
    cards: &[FoundCard],
    author: &Author,
) -> sqlx::Result<()> {
    let is_found_by_pin = |card: &&FoundCard| card.found_by.contains(&PIN);
    for card in cards.iter().filter(is_found_by_pin) {
        let target = Target::Row { id: card.id, name: card.number.as_deref().unwrap_or_default() };
        let after = Some(json!({ "found_by": PIN }).to_string());
        Change { what: What::Card, target, before: None, after }.record(&mut *connection, author).await?;
    }
    Ok(())
}

/// Finds the cards that have the key.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if there is none.
pub async fn find_cards(connection: &mut PgConnection, key: &CardKey) -> Result<FoundCards, BackOfficeError> {
    let found = search(connection, std::slice::from_ref(key), None).await?;
    match found.cards.is_empty() {
        true => Err(BackOfficeError::NotFound(format!("no card has {}", key.describe()))),
        false => Ok(found),
    }
}

/// Finds the one card to change. A number is that of the card in use: deleted and quarantined cards count only if no
/// other card has it.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if there is none, [`BackOfficeError::Refused`] if there are several.
pub async fn find_card(connection: &mut PgConnection, key: &CardKey) -> Result<FoundCard, BackOfficeError> {
    let FoundCards { mut cards, has_more } = find_cards(connection, key).await?;
    if cards.iter().filter(|card| card.in_use).count() == 1 {
        cards.retain(|card| card.in_use);
    }
    match cards.pop() {
        Some(card) if cards.is_empty() => Ok(card),
        last => {
            cards.extend(last);
            let describe = |card: &FoundCard| {
                let owner = card.owner.as_deref().unwrap_or("unknown");
                format!("{} ({}, group {}, owner {owner})", card.id, card.state, card.cardgroup_id)
            };
            let mut ids: Vec<String> = cards.iter().map(describe).collect();
            ids.extend(has_more.then(|| "…".to_owned()));
            let message = format!("several cards have {}, choose one with --id: {}", key.describe(), ids.join(", "));
            Err(BackOfficeError::Refused(message))
        }
    }
}
