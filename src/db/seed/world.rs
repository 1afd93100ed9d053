//! The world of the demo: two shops and a reseller with six weeks of sales until the first start, refunds, a reissue,
//! e-mails, batches and changes. All but PINs and keys follows from the time.
//!
//! The rows are those that sales, commands and pages write. The ids and numbers of the published examples stay free.

use sqlx::PgConnection;

use super::{hash_sha1, random_secret};

/// PINs for the sold cards. They are about 3000.
const SALES_MAX: usize = 5_000;
/// The number of cards that are not sold.
const STOCK: usize = 1_630;
/// The number of PINs of the world.
pub(super) const PINS: usize = SALES_MAX + STOCK;

/// Writes the world. The examples are written already, and use none of the PINs.
pub(super) async fn seed_world(connection: &mut PgConnection, pins: &[String]) -> sqlx::Result<()> {
    // These statements read and join all rows (`db::session`).
    sqlx::raw_sql(
        "set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on; set local enable_bitmapscan = on;
         set local enable_hashjoin = on; set local enable_mergejoin = on; set local enable_sort = on",
    )
    .execute(&mut *connection)
    .await?;
    let (password, key) = (hash_sha1(&random_secret()?), random_secret()?);
    sqlx::query_file!("src/db/seed/world/users.sql", password, key).execute(&mut *connection).await?;
    sqlx::query_file!("src/db/seed/world/groups.sql").execute(&mut *connection).await?;
    let (stock, sold) = pins.split_at(pins.len().min(STOCK));
    sqlx::query_file!("src/db/seed/world/sales.sql", sold).execute(&mut *connection).await?;
    // Without statistics, the trigger of the next statement would compare each card with each payment.
    sqlx::query!("analyze payments").execute(&mut *connection).await?;
    sqlx::query_file!("src/db/seed/world/stock.sql", stock).execute(&mut *connection).await?;
    sqlx::query_file!("src/db/seed/world/mails.sql").execute(&mut *connection).await?;
    sqlx::query_file!("src/db/seed/world/changes.sql").execute(&mut *connection).await?;
    sqlx::query_file!("src/db/seed/world/reissue.sql").execute(connection).await?;
    Ok(())
}
