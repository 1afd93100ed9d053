//! Blocks and unblocks cards, and gives them to distributors: a withheld card is not in stock, and a blocked one cannot
//! be used either.

use serde_json::json;
use sqlx::PgConnection;

use super::BackOfficeError;
use super::selection::{CardSelection, SelectedCards, allow_many_cards, record_changes};
use crate::store::change_log::{Author, RowChange, What};

/// Blocks or unblocks one card. A card that is unblocked is withheld again for the reason that it had before. Returns
/// whether something was changed.
///
/// # Errors
///
/// [`BackOfficeError::Refused`] if the card cannot be used anyway: it is deleted, retired or quarantined.
pub async fn block_card(
    connection: &mut PgConnection,
    card_id: i64,
    block: bool,
    author: &Author,
) -> Result<bool, BackOfficeError> {
    let card = sqlx::query!(
        r#"select withheld, hidden = 0 and retired_at is null and quarantined_at is null as "in_use!" from cards where id = $1
           for no key update"#,
        card_id
    );
    let card = card.fetch_optional(&mut *connection).await?;
    let card = card.ok_or_else(|| BackOfficeError::NotFound(format!("there is no card with the id {card_id}")))?;
    if !card.in_use {
        return Err(BackOfficeError::refused("the card is deleted, retired or quarantined: it cannot be used"));
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
    change.record(connection, author).await?;
    Ok(true)
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
               select id from cards
               where hidden = 0 and quarantined_at is null and ($1::integer is null or cardgroup_id = $1)
                   and ($2::text is null or batch_number = $2 and batch_number <> '')
                   and ($3::text is null or number between $3 and $4 and length(number) = length($3))
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
           group by g.id order by g.id"#,
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
    /// The cards. Only those in stock are given.
    pub selection: &'a CardSelection,
    /// The user id of the distributor.
    pub distributor_id: i32,
    /// Whether the cards stay for sale by the API.
    pub keep_in_stock: bool,
}

impl Assignment<'_> {
    /// Gives the selected cards in stock to the distributor. Returns the changed ones.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] if the distributor is no simple user of the owner of the cards' groups.
    pub async fn run(
        &self,
        connection: &mut PgConnection,
        author: &Author,
    ) -> Result<Vec<SelectedCards>, BackOfficeError> {
        let Self { selection, distributor_id, keep_in_stock } = self;
        for cards in selection.groups(&mut *connection).await? {
            let is_allowed = sqlx::query_scalar!(
                r#"select exists (
                       select from users u join cardgroups g on coalesce(g.owner_id, 0) = coalesce(u.owner_id, 0)
                       where u.id = $1 and g.id = $2 and u.usertype = 'user' and u.hidden = 0 and u.id <> 0) as "allowed!""#,
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
                   where hidden = 0 and quarantined_at is null and ($1::integer is null or cardgroup_id = $1)
                       and ($2::text is null or batch_number = $2 and batch_number <> '')
                       and ($3::text is null or number between $3 and $4 and length(number) = length($3))
                       and is_in_stock(c) and not has_sale_payment(c) and (not $6 or user_id is distinct from $5)
                   order by number collate "C", id
                   for no key update
               ), changed as (
                   update cards set user_id = $5, withheld = case when $6 then withheld else 'assigned' end
                   where id = any (array(select id from selected))
                   returning cardgroup_id, number
               )
               select g.id as "group!", g.name as "name!", count(*) as "cards!", min(number collate "C") as first, max(number collate "C") as last
               from changed join cardgroups g on g.id = changed.cardgroup_id
               group by g.id order by g.id"#,
            selection.group,
            selection.batch_number,
            selection.first_number(),
            selection.last_number(),
            distributor_id,
            keep_in_stock
        );
        let changed = changed.fetch_all(&mut *connection).await?;
        let change = json!({
            "distributor": distributor_id,
            "withheld": if *keep_in_stock { None } else { Some("assigned") },
            "batch_number": selection.batch_number,
        });
        record_changes(connection, &changed, &change, author).await?;
        Ok(changed)
    }
}

/// Takes the selected unsold cards back from their distributors, or from one of them: they are in stock again. Returns
/// the changed ones.
///
/// # Errors
///
/// Database errors.
pub async fn release_cards(
    connection: &mut PgConnection,
    selection: &CardSelection,
    distributor_id: Option<i32>,
    author: &Author,
) -> Result<Vec<SelectedCards>, BackOfficeError> {
    allow_many_cards(&mut *connection).await?;
    let changed = sqlx::query_as!(
        SelectedCards,
        r#"with selected as materialized (
               select id from cards c
               where hidden = 0 and quarantined_at is null and ($1::integer is null or cardgroup_id = $1)
                   and ($2::text is null or batch_number = $2 and batch_number <> '')
                   and ($3::text is null or number between $3 and $4 and length(number) = length($3))
                   and sold = 0 and retired_at is null and user_id <> -1 and ($5::integer is null or user_id = $5)
               order by number collate "C", id
               for no key update
           ), changed as (
               update cards set user_id = -1, withheld = nullif(withheld, 'assigned'), unblocked_as = nullif(unblocked_as, 'assigned')
               where id = any (array(select id from selected))
               returning cardgroup_id, number
           )
           select g.id as "group!", g.name as "name!", count(*) as "cards!", min(number collate "C") as first, max(number collate "C") as last
           from changed join cardgroups g on g.id = changed.cardgroup_id
           group by g.id order by g.id"#,
        selection.group,
        selection.batch_number,
        selection.first_number(),
        selection.last_number(),
        distributor_id
    );
    let changed = changed.fetch_all(&mut *connection).await?;
    let change = json!({ "distributor": "released", "batch_number": selection.batch_number });
    record_changes(connection, &changed, &change, author).await?;
    Ok(changed)
}
