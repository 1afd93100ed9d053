//! SQL of operations and commands that assign caller ids to cards.

use sqlx::PgConnection;

use crate::store::change_log::{Author, RowChange, What};

/// The length of MOR's column `cards.callerid`, in characters.
pub const CALLERID_LEN_MAX: usize = 30;

/// Serializes requests for a caller id, on all servers, until the transaction ends: two of them never create two cards.
pub async fn advisory_lock(connection: &mut PgConnection, callerid: &str) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('callerid ' || $1, 0))", callerid)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Locks the card that gets the caller id and the deleted cards that lose it, in the order in which cards are locked.
pub async fn lock_cards(connection: &mut PgConnection, callerid: &str, card_id: i64) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select id from cards where id = any (array(
               select $2::bigint union all select id from cards where callerid <> '' and callerid = $1 and hidden <> 0))
           order by number collate "C", id
           for no key update"#,
        callerid,
        card_id
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

/// Removes the caller id from a deleted card that still has it, and writes the change to the change log.
pub async fn clear_deleted(connection: &mut PgConnection, callerid: &str, author: &Author) -> sqlx::Result<()> {
    let deleted = sqlx::query_scalar!(
        "select id from cards where callerid <> '' and callerid = $1 and hidden <> 0 for no key update",
        callerid
    );
    // Caller ids are unique, also among deleted cards.
    let Some(id) = deleted.fetch_optional(&mut *connection).await? else { return Ok(()) };
    let change = RowChange::begin(connection, What::Card, id).await?;
    sqlx::query!("update cards set callerid = null where id = $1", id).execute(&mut *connection).await?;
    change.record(connection, author).await
}
