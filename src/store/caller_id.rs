//! Caller ids: what two operations that give them to cards share.

use sqlx::PgConnection;

/// MOR's column.
pub const CALLERID_LEN_MAX: usize = 30;

/// Requests for one caller id run one after the other, on all servers, so that two of them never make two cards.
pub async fn advisory_lock(connection: &mut PgConnection, callerid: &str) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('callerid ' || $1, 0))", callerid)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Locks a card that is to get the caller id, with those that will lose it, in the order in which cards are locked.
pub async fn lock_cards(connection: &mut PgConnection, callerid: &str, card: i64) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select id from cards where id = any (array(
               select $2::bigint union all select id from cards where callerid <> '' and callerid = $1 and hidden <> 0))
           order by number collate "C", id
           for no key update"#,
        callerid,
        card
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

/// A card that was deleted may still have the caller id; it loses it.
pub async fn clear_deleted(connection: &mut PgConnection, callerid: &str) -> sqlx::Result<()> {
    sqlx::query!("update cards set callerid = null where callerid <> '' and callerid = $1 and hidden <> 0", callerid)
        .execute(connection)
        .await?;
    Ok(())
}
