//! SQL shared by the two operations that assign caller ids to cards.

use sqlx::PgConnection;

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

/// Removes the caller id from deleted cards that still have it.
pub async fn clear_deleted(connection: &mut PgConnection, callerid: &str) -> sqlx::Result<()> {
    sqlx::query!("update cards set callerid = null where callerid <> '' and callerid = $1 and hidden <> 0", callerid)
        .execute(connection)
        .await?;
    Ok(())
}
