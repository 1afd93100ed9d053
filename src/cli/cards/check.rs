//! `mortise cards check`: compares the stock with the cards, and repairs it.

use clap::Args;
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;

use crate::cli::database::{begin_read_only, with_database};
use crate::cli::{CommandError, Report, author};
use crate::config::Config;
use crate::store::change_log::{Change, Target, What};
use crate::store::stock::recheck_stock;

/// Cards that are rechecked in one transaction: their rows are locked until its end.
const BATCH_SIZE: usize = 100;

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// Insert missing stock rows, and delete those of cards that cannot be sold
    #[arg(long)]
    repair: bool,
}

/// A card that is in stock according to only one of `cards` and `card_stock`.
#[derive(Debug, Serialize)]
struct StockDifference {
    card_id: i64,
    /// Whether the card can be sold, but has no stock row. Otherwise it has one, but cannot be sold.
    missing: bool,
}

/// Runs the command.
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let differences = find_differences(pool).await?;
        if options.repair {
            for batch in differences.chunks(BATCH_SIZE) {
                repair(pool, batch).await?;
            }
        }
        let mut lines: Vec<String> = differences.iter().map(StockDifference::describe).collect();
        lines.push(match (differences.len(), options.repair) {
            (0, _) => "The stock matches the cards.".to_owned(),
            (count, true) => format!("Repaired: {count}."),
            (count, false) => format!("Differences: {count}. To repair them, run `mortise cards check --repair`."),
        });
        let is_ok = differences.is_empty() || options.repair;
        let json = json!({ "differences": differences, "repaired": options.repair });
        Ok(Report::new(lines.join("\n"), json).fail_unless(is_ok))
    })
    .await
}

impl StockDifference {
    fn describe(&self) -> String {
        let text = if self.missing { "can be sold, but is not in stock" } else { "is in stock, but cannot be sold" };
        format!("card {}: {text}", self.card_id)
    }
}

async fn find_differences(pool: &PgPool) -> sqlx::Result<Vec<StockDifference>> {
    let mut transaction = begin_read_only(pool).await?;
    sqlx::query_as!(
        StockDifference,
        r#"select card_id as "card_id!", missing as "missing!" from card_stock_differences order by card_id"#
    )
    .fetch_all(&mut *transaction)
    .await
}

/// Rechecks the cards. They are locked first, in the order of all card locks: what another transaction has changed
/// meanwhile counts.
async fn repair(pool: &PgPool, differences: &[StockDifference]) -> sqlx::Result<()> {
    let mut ids: Vec<i64> = differences.iter().map(|difference| difference.card_id).collect();
    ids.dedup();
    // The rows of cards that do not exist any more, or are in another group, are found by reading the whole stock.
    let mut transaction = pool.begin_with("begin; set local enable_seqscan = on; set local enable_sort = on").await?;
    sqlx::query!(r#"select id from cards where id = any ($1) order by number collate "C", id for no key update"#, &ids)
        .fetch_all(&mut *transaction)
        .await?;
    recheck_stock(&mut transaction, &ids).await?;
    sqlx::query!(
        "delete from card_stock s
         where card_id = any ($1) and not exists (
             select from cards c where c.id = s.card_id and c.cardgroup_id = s.cardgroup_id and c.number = s.number)",
        &ids
    )
    .execute(&mut *transaction)
    .await?;
    let repaired = sqlx::query!(
        r#"select repaired.id as "id!", coalesce((select number from cards c where c.id = repaired.id), '') as "number!",
               exists (select from card_stock s where s.card_id = repaired.id) as "in_stock!"
           from unnest($1::bigint[]) repaired (id)"#,
        &ids
    );
    for card in repaired.fetch_all(&mut *transaction).await? {
        let target = Target::Row { id: card.id, name: &card.number };
        let after = Some(json!({ "in_stock": card.in_stock }).to_string());
        Change { what: What::Card, target, before: None, after }.record(&mut transaction, &author()).await?;
    }
    transaction.commit().await
}
