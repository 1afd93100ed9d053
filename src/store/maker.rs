//! Those who make cards: by the thousand, one after the other, and one by one, beside them.

use std::time::Duration;

use sqlx::PgConnection;

/// How long a number or PIN is waited for that somebody makes by the thousand may be using.
const MOMENT: Duration = Duration::from_millis(100);

/// Waits until nobody else makes cards by the thousand, on any server.
pub async fn take_turn(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('calling_cards_create', 0))")
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Holds off those who make cards by the thousand until the transaction ends. `false`: somebody is at it. What they have made so
/// far can't be seen, and is only waited for until a moment has passed.
pub async fn hold_off(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select case when pg_try_advisory_xact_lock_shared(hashtextextended('calling_cards_create', 0)) then true
               else set_config('lock_timeout', $1, true) is null end as "held_off!""#,
        format!("{}ms", MOMENT.as_millis())
    )
    .fetch_one(connection)
    .await
}

/// Waits for locks as patiently as before.
pub async fn be_patient(connection: &mut PgConnection, wait: Duration) -> sqlx::Result<()> {
    sqlx::query!("select set_config('lock_timeout', $1, true)", format!("{}ms", wait.as_millis()))
        .fetch_one(connection)
        .await?;
    Ok(())
}
