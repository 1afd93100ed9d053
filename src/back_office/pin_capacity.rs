//! Whether a card group can get more cards without PINs that could be guessed.

use sqlx::PgConnection;

use crate::store::bulk_create;

/// Why `count` more PINs of `length` digits are refused. `None`: they are not.
pub(super) async fn refusal(connection: &mut PgConnection, length: i32, count: u32) -> sqlx::Result<Option<String>> {
    let fits = bulk_create::has_pin_capacity(connection, length, count).await?;
    let message = || {
        format!(
            "{count} more cards would use more than a fifth of all PINs of {length} digits, and PINs could be guessed: \
             use a card group with longer PINs"
        )
    };
    Ok((!fits).then(message))
}
