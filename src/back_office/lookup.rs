//! Finds cards by what an operator knows about them, among all cards: also deleted, retired and quarantined ones.

use serde::Serialize;
use sqlx::PgConnection;

use super::BackOfficeError;

/// Maximum number of cards that a search returns.
pub const FOUND_CARDS_MAX: usize = 100;

/// What an operator knows about a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardKey {
    /// The id in the table `cards`.
    Id(i64),
    /// The card number.
    Number(String),
    /// The PIN.
    Pin(String),
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

    /// Returns the ids of up to [`FOUND_CARDS_MAX`] cards. Each statement reads one index.
    async fn find_ids(&self, connection: &mut PgConnection) -> sqlx::Result<Vec<i64>> {
        let limit = i64::try_from(FOUND_CARDS_MAX).unwrap_or(i64::MAX);
        match self {
            Self::Id(id) => {
                sqlx::query_scalar!("select id from cards where id = $1", id).fetch_all(connection).await
            }
            Self::Number(number) => {
                sqlx::query_scalar!(
                    r#"select id as "id!" from cards where number = $1 and hidden = 0 and quarantined_at is null
                       union all
                       (select id from cards where number = $1 and (hidden <> 0 or quarantined_at is not null) limit $2)"#,
                    number.trim(),
                    limit
                )
                .fetch_all(connection)
                .await
            }
            Self::Pin(pin) => {
                sqlx::query_scalar!(
                    r#"select id as "id!" from cards
                       where pin <> '' and pin = $1 and hidden = 0 and quarantined_at is null
                       union all
                       (select id from cards
                        where pin <> '' and pin = $1 and (hidden <> 0 or quarantined_at is not null) limit $2)"#,
                    pin.trim(),
                    limit
                )
                .fetch_all(connection)
                .await
            }
            Self::CallerId(callerid) => {
                sqlx::query_scalar!("select id from cards where callerid <> '' and callerid = $1", callerid.trim())
                    .fetch_all(connection)
                    .await
            }
            Self::Email(email) => {
                sqlx::query_scalar!(
                    r#"select distinct card_id as "id!"
                       from (select id from ccorders where email <> '' and fold_case(email) = fold_case($1) offset 0) ccorder,
                           lateral (select card_id from cclineitems where ccorder_id = ccorder.id offset 0) lineitem
                       where card_id is not null
                       limit $2"#,
                    email.trim(),
                    limit
                )
                .fetch_all(connection)
                .await
            }
            Self::Reference(reference) => {
                sqlx::query_scalar!(
                    r#"select distinct user_id as "id!" from payments
                       where reference = $1 and card = 1 and user_id is not null limit $2"#,
                    reference,
                    limit
                )
                .fetch_all(connection)
                .await
            }
            Self::Serial(serial) => {
                sqlx::query_scalar!("select id from cards where serial = $1 limit $2", serial.trim(), limit)
                    .fetch_all(connection)
                    .await
            }
        }
    }
}

/// Finds the cards, in the order of their numbers.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if there is none.
pub async fn find_cards(connection: &mut PgConnection, key: &CardKey) -> Result<Vec<FoundCard>, BackOfficeError> {
    let ids = key.find_ids(&mut *connection).await?;
    let cards = sqlx::query_as!(
        FoundCard,
        r#"select c.id, c.number, c.cardgroup_id, g.name as cardgroup, u.username as "owner?", card_state(c) as "state!",
               c.hidden = 0 and c.quarantined_at is null as "in_use!"
           from cards c join cardgroups g on g.id = c.cardgroup_id left join users u on u.id = coalesce(c.owner_id, 0)
           where c.id = any ($1)
           order by c.number collate "C", c.id"#,
        &ids
    );
    let cards = cards.fetch_all(connection).await?;
    match cards.is_empty() {
        true => Err(BackOfficeError::NotFound(format!("no card has {}", key.describe()))),
        false => Ok(cards),
    }
}

/// Finds the one card to change. A number is that of the card in use: deleted and quarantined cards count only if no
/// other card has it.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if there is none, [`BackOfficeError::Refused`] if there are several.
pub async fn find_card(connection: &mut PgConnection, key: &CardKey) -> Result<FoundCard, BackOfficeError> {
    let mut cards = find_cards(connection, key).await?;
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
            let ids: Vec<String> = cards.iter().map(describe).collect();
            let message = format!("several cards have {}, choose one with --id: {}", key.describe(), ids.join(", "));
            Err(BackOfficeError::Refused(message))
        }
    }
}
