//! Blocks and unblocks cards, and gives them to distributors: a withheld card is not in stock, and a blocked one cannot
//! be used either.

use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::BackOfficeError;
use super::selection::{CardSelection, SelectedCards, allow_many_cards, record_changes};
use crate::store::change_log::{Author, RowChange, What};

/// Blocks or unblocks one card. A card that is unblocked is withheld again for the reason that it had before. The
/// change log gets the `reason`. Returns whether something was changed.
///
/// # Errors
///
/// [`BackOfficeError::Refused`] if the card cannot be used anyway: it is deleted, retired or quarantined.
pub async fn block_card(
    connection: &mut PgConnection,
    card_id: i64,
    block: bool,
    reason: Option<&str>,
    author: &Author,
) -> Result<bool, BackOfficeError> {
    let card = sqlx::query!(
        r#"select withheld, hidden = 0 and retired_at is null and quarantined_at is null as "in_use!" from cards where id = $1
           for no key update"#,
        card_id
    );
    let card = card.fetch_optional(&mut *connection).await?;
    let card = card.ok_or_else(|| BackOfficeError::no_card(card_id))?;
    if let Some(message) = refusal(card.in_use) {
        return Err(BackOfficeError::Refused(message));
    }
    if (card.withheld.as_deref() == Some("blocked")) == block {
        return Ok(false);
    }
    let change = RowChange::begin(&mut *connection, What::Card, card_id).await?;
    sqlx::query!(
        "update cards set withheld = case when $2 then 'blocked' else unblocked_as end,
             unblocked_as = case when $2 then withheld end
         where id = $1",
        card_id,
        block
    )
    .execute(&mut *connection)
    .await?;
    let details = reason.map(|reason| ("reason".to_owned(), reason.into()));
    change.record_with(connection, author, details.into_iter().collect()).await?;
    Ok(true)
}

/// Why a card cannot be blocked or unblocked. `None`: it can. `in_use`: it is not deleted, retired or quarantined.
pub(super) fn refusal(in_use: bool) -> Option<String> {
    (!in_use).then(|| "the card is deleted, retired or quarantined: it cannot be used".to_owned())
}

/// Blocks or unblocks the selected cards that are not retired. Returns the changed ones.
///
/// # Errors
///
/// Database errors.
pub async fn block_cards(
    connection: &mut PgConnection,
    selection: &CardSelection,
    block: bool,
    author: &Author,
) -> Result<Vec<SelectedCards>, BackOfficeError> {
    allow_many_cards(&mut *connection).await?;
    let changed = sqlx::query_as!(
        SelectedCards,
        r#"with selected as materialized (
               select id from cards c
               where is_selected(c, $1, $2, $3, $4)
                   and retired_at is null and coalesce(withheld = 'blocked', false) <> $5
               order by number collate "C", id
               for no key update
           ), changed as (
               update cards set withheld = case when $5 then 'blocked' else unblocked_as end,
                   unblocked_as = case when $5 then withheld end
               where id = any (array(select id from selected))
               returning cardgroup_id, number
           )
           select g.id as "group!", g.name as "name!", count(*) as "cards!", min(number collate "C") as first, max(number collate "C") as last
           from changed join cardgroups g on g.id = changed.cardgroup_id
           group by g.id, length(number) order by g.id, length(number)"#,
        selection.group,
        selection.batch_number,
        selection.first_number(),
        selection.last_number(),
        block
    );
    let changed = changed.fetch_all(&mut *connection).await?;
    let change =
        json!({ "withheld": if block { "blocked" } else { "unblocked" }, "batch_number": selection.batch_number });
    record_changes(connection, &changed, &change, author).await?;
    Ok(changed)
}

/// Cards that a distributor gets.
#[derive(Debug)]
pub struct Assignment<'a> {
    /// The cards. Only those in stock are given, and none of another distributor.
    pub selection: &'a CardSelection,
    /// The user id of the distributor.
    pub distributor_id: i32,
    /// Whether the cards stay for sale by the API.
    pub keep_in_stock: bool,
    /// How many cards are given: those with the lowest numbers. `None`: all.
    pub count: Option<i64>,
}

impl Assignment<'_> {
    /// Gives the selected cards in stock to the distributor. Returns the changed ones.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] if the distributor is no simple user of the owner of the cards' groups, or fewer
    /// cards than `count` are in stock.
    pub async fn run(
        &self,
        connection: &mut PgConnection,
        author: &Author,
    ) -> Result<Vec<SelectedCards>, BackOfficeError> {
        let Self { selection, distributor_id, keep_in_stock, count } = self;
        for cards in selection.groups(&mut *connection).await? {
            let is_allowed = sqlx::query_scalar!(
                r#"select exists (
                       select from users u join cardgroups g on coalesce(g.owner_id, 0) = coalesce(u.owner_id, 0)
                       where u.id = $1 and g.id = $2 and u.usertype = 'user' and coalesce(u.hidden, 0) = 0
                           and u.id <> 0) as "allowed!""#,
                distributor_id,
                cards.group
            );
            if !is_allowed.fetch_one(&mut *connection).await? {
                let message = format!(
                    "the distributor must be a user of the type user, of the owner of the card group {}",
                    cards.group
                );
                return Err(BackOfficeError::Refused(message));
            }
        }
        let changed = sqlx::query_as!(
            SelectedCards,
            r#"with selected as materialized (
                   select id from cards c
                   where is_selected(c, $1, $2, $3, $4)
                       and is_in_stock(c) and not has_sale_payment(c) and coalesce(user_id, -1) in (-1, $5)
                       and (not $6 or user_id is distinct from $5)
                   order by number collate "C", id
                   limit $7
                   for no key update
               ), changed as (
                   update cards set user_id = $5, withheld = case when $6 then withheld else 'assigned' end
                   where id = any (array(select id from selected))
                   returning cardgroup_id, number
               )
               select g.id as "group!", g.name as "name!", count(*) as "cards!", min(number collate "C") as first, max(number collate "C") as last
               from changed join cardgroups g on g.id = changed.cardgroup_id
               group by g.id, length(number) order by g.id, length(number)"#,
            selection.group,
            selection.batch_number,
            selection.first_number(),
            selection.last_number(),
            distributor_id,
            keep_in_stock,
            *count
        );
        let changed = changed.fetch_all(&mut *connection).await?;
        let given: i64 = changed.iter().map(|cards| cards.cards).sum();
        if count.is_some_and(|count| given < count) {
            return Err(BackOfficeError::Refused(format!(
                "only {given} of the selected cards can be given: the others are not in stock, or have another distributor"
            )));
        }
        let change = json!({
            "distributor": distributor_id,
            "withheld": if *keep_in_stock { None } else { Some("assigned") },
            "batch_number": selection.batch_number,
        });
        record_changes(connection, &changed, &change, author).await?;
        Ok(changed)
    }
}

/// The outcome of a release.
#[derive(Debug, Serialize)]
pub struct Released {
    /// The cards that are in stock again.
    pub changed: Vec<SelectedCards>,
    /// How many cards stay withheld because they were used: each has calls, a caller id, a payment or a transfer.
    pub used: i64,
}

/// Takes the selected unsold cards back from their distributors, or from one of them: they are in stock again, unless
/// they are blocked. Used cards are left out, because an assigned card can be used. A card that the import has reserved
/// for its distributor is taken back too, but not one that MOR cannot sell, by its number, PIN or minimal balance.
///
/// # Errors
///
/// Database errors.
pub async fn release_cards(
    connection: &mut PgConnection,
    selection: &CardSelection,
    distributor_id: Option<i32>,
    author: &Author,
) -> Result<Released, BackOfficeError> {
    allow_many_cards(&mut *connection).await?;
    let rows = sqlx::query!(
        r#"with selected as materialized (
               select id, cardgroup_id, number,
                   has_calls(c) or coalesce(callerid, '') <> ''
                       or exists (select from payments where user_id = c.id and card = 1)
                       or exists (
                           select from actions
                           where target_type = 'card' and target_id = c.id and action = 'Added to cards balance') as used
               from cards c
               where is_selected(c, $1, $2, $3, $4)
                   and sold = 0 and retired_at is null and ($5::integer is null or user_id = $5)
                   and (user_id <> -1 or withheld = 'assigned' or unblocked_as = 'assigned')
                   and ('reserved' not in (coalesce(withheld, ''), coalesce(unblocked_as, '')) or exists (
                       select from cardgroups g
                       where g.id = c.cardgroup_id and is_sellable(c, g.pin_length, g.number_length)))
               order by number collate "C", id
               for no key update
           ), changed as (
               update cards set user_id = -1, withheld = case when withheld = 'blocked' then withheld end, unblocked_as = null
               where id = any (array(select id from selected where not used))
           )
           select g.id as "group!", g.name as "name!", count(*) filter (where not used) as "cards!",
               min(selected.number collate "C") filter (where not used) as first,
               max(selected.number collate "C") filter (where not used) as last, count(*) filter (where used) as "used!"
           from selected join cardgroups g on g.id = selected.cardgroup_id
           group by g.id, length(selected.number) order by g.id, length(selected.number)"#,
        selection.group,
        selection.batch_number,
        selection.first_number(),
        selection.last_number(),
        distributor_id
    );
    let rows = rows.fetch_all(&mut *connection).await?;
    let used = rows.iter().map(|row| row.used).sum();
    let changed = rows.into_iter().filter(|row| row.cards > 0).map(|row| SelectedCards {
        group: row.group,
        name: row.name,
        cards: row.cards,
        first: row.first,
        last: row.last,
    });
    let changed: Vec<SelectedCards> = changed.collect();
    let change = json!({ "distributor": "released", "batch_number": selection.batch_number });
    record_changes(connection, &changed, &change, author).await?;
    Ok(Released { changed, used })
}
