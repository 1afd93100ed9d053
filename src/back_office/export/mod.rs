//! Exports cards with their PINs: as CSV, as JSON, or as sheets to print. Cards are streamed: the memory used does not
//! depend on their number.

mod format;
mod sheet;

use async_stream::try_stream;
use futures_util::Stream;
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;

use self::format::{Buffer, Writer};
pub use self::format::{ExportError, Format, guard_formula};
use super::BackOfficeError;
use super::selection::{CardSelection, SelectedCards};
use crate::money::Money;
use crate::pin::Pin;
use crate::store::change_log::{Author, Change, Target, What};
use crate::store::pages::{BEGIN_NEXT_PAGE, BEGIN_UNNUMBERED, PAGE_ROWS};

/// An exported card. Times are in UTC.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct ExportedCard {
    pub number: Option<String>,
    pub pin: Option<Pin>,
    /// In the system's currency, without tax.
    pub balance: Money,
    pub sold: i16,
    pub batch_number: Option<String>,
    pub language: Option<String>,
    pub name: Option<String>,
    pub callerid: Option<String>,
    pub id: i64,
    pub serial: Option<String>,
    pub first_use: Option<String>,
    pub daily_charge_paid_till: Option<String>,
}

/// The cards to export.
#[derive(Debug)]
pub struct CardExport {
    /// The cards; deleted and quarantined ones are never exported.
    pub selection: CardSelection,
    /// Only the cards that can be sold.
    pub free_only: bool,
}

/// A part of the text of an export.
#[derive(Debug)]
pub struct Chunk {
    /// UTF-8.
    pub bytes: Vec<u8>,
    /// The number of cards in it.
    pub cards: u64,
}

/// An export whose row of the change log is committed.
#[derive(Debug)]
pub struct StartedExport {
    export: CardExport,
    pool: PgPool,
    format: Format,
    groups: Vec<SelectedCards>,
}

impl CardExport {
    /// Finds the cards, and commits the row of the change log, before the first PIN is read.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the selection has no card.
    pub async fn start(self, pool: &PgPool, format: Format, author: &Author) -> Result<StartedExport, BackOfficeError> {
        let groups = self.prepare(pool, author).await?;
        Ok(StartedExport { export: self, pool: pool.clone(), format, groups })
    }

    /// Finds the groups of the cards, and writes a row of the change log for each.
    async fn prepare(&self, pool: &PgPool, author: &Author) -> Result<Vec<SelectedCards>, BackOfficeError> {
        let mut transaction = pool.begin().await?;
        let groups = self.selection.groups(&mut transaction).await?;
        let mut after = json!({
            "cards": "exported", "batch_number": self.selection.batch_number, "free": self.free_only,
        });
        if let Some((from, till)) = &self.selection.numbers {
            (after["from"], after["till"]) = (json!(from), json!(till));
        }
        for cards in &groups {
            let target = Target::Row { id: cards.group.into(), name: &cards.name };
            let change = Change { what: What::CardGroup, target, before: None, after: Some(after.to_string()) };
            change.record(&mut transaction, author).await?;
        }
        transaction.commit().await?;
        Ok(groups)
    }

    /// Whether the number has as many digits as those of the selected range; an unnumbered card is in no range.
    fn is_in_range(&self, card: &ExportedCard) -> bool {
        let Some((from, _)) = &self.selection.numbers else { return true };
        card.number.as_ref().is_some_and(|number| number.len() == from.len())
    }

    async fn read_page(
        &self,
        pool: &PgPool,
        group: &SelectedCards,
        start: &Position,
    ) -> sqlx::Result<Vec<ExportedCard>> {
        let (begin, number, id) = match start {
            Position::AfterNumber(number) => (BEGIN_NEXT_PAGE, number.as_deref(), None),
            Position::AfterUnnumbered(id) => (BEGIN_UNNUMBERED, None, Some(*id)),
        };
        // The numbers of the selected cards, for cards with a number. Only they need to be read.
        let numbers = id.is_none().then(|| group.first.as_deref().zip(group.last.as_deref())).flatten();
        let mut transaction = pool.begin_with(begin).await?;
        // `between`, because with an equality the planner could take the index of numbers, which has all groups' cards.
        let cards = sqlx::query_as!(
            ExportedCard,
            r#"select number, pin as "pin: Pin", coalesce(balance, 0) as "balance!: Money", sold, batch_number, language,
                   name, callerid, id, serial, to_char(first_use, 'YYYY-MM-DD HH24:MI:SS') as first_use,
                   to_char(daily_charge_paid_till, 'YYYY-MM-DD HH24:MI:SS') as daily_charge_paid_till
               from cards c
               where hidden = 0 and quarantined_at is null and (not $2 or is_in_stock(c)) and ($3::text is null or batch_number = $3)
                   and ($4::text is null or (cardgroup_id, number) > ($1, $4))
                   and case when $5::bigint is null then number is not null else number is null and id > $5 end
                   and ($7::text is null or (cardgroup_id, number) >= ($1, $7) and (cardgroup_id, number) <= ($1, $8::text))
                   and cardgroup_id between $1 and $1
               order by cardgroup_id, number, case when $5 is not null then id end limit $6"#,
            group.group,
            self.free_only,
            self.selection.batch_number,
            number,
            id,
            PAGE_ROWS,
            numbers.map(|(first, _)| first),
            numbers.map(|(_, last)| last)
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(cards)
    }
}

impl StartedExport {
    /// Returns the number of selected cards. Fewer are exported if only those that can be sold are.
    pub fn selected_cards(&self) -> u64 {
        self.groups.iter().map(|cards| u64::try_from(cards.cards).unwrap_or(0)).sum()
    }

    /// Writes the cards in the order of their groups and numbers. No statement runs while the reader of the stream
    /// does something else: an old snapshot would slow down sales.
    ///
    /// # Errors
    ///
    /// Those of the database and of the template.
    pub fn stream(self) -> impl Stream<Item = Result<Chunk, ExportError>> + Send {
        let Self { export, pool, format, groups } = self;
        try_stream! {
            let buffer = Buffer::default();
            let mut writer = Writer::start(&format, buffer.clone())?;
            for group in &groups {
                let mut position = Some(Position::AfterNumber(None));
                while let Some(start) = position {
                    let mut cards = export.read_page(&pool, group, &start).await?;
                    position = start.next(&cards);
                    cards.retain(|card| export.is_in_range(card));
                    let written = cards.len() as u64;
                    for card in cards {
                        writer.write(&group.name, card)?;
                    }
                    writer.flush()?;
                    yield Chunk { bytes: buffer.take(), cards: written };
                }
            }
            writer.finish()?;
            yield Chunk { bytes: buffer.take(), cards: 0 };
        }
    }
}

/// Where a page starts. Cards without a number follow those with one.
enum Position {
    /// After this number; `None`: at the first card.
    AfterNumber(Option<String>),
    /// After the card that has no number and this id.
    AfterUnnumbered(i64),
}

impl Position {
    /// Returns where the page after `cards` starts. `None`: no cards are left.
    fn next(&self, cards: &[ExportedCard]) -> Option<Self> {
        let is_full = i64::try_from(cards.len()) == Ok(PAGE_ROWS);
        match (self, cards.last().filter(|_| is_full)) {
            (Self::AfterNumber(_), Some(last)) => Some(Self::AfterNumber(last.number.clone())),
            (Self::AfterNumber(_), None) => Some(Self::AfterUnnumbered(i64::MIN)),
            (Self::AfterUnnumbered(_), Some(last)) => Some(Self::AfterUnnumbered(last.id)),
            (Self::AfterUnnumbered(_), None) => None,
        }
    }
}
