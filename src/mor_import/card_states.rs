//! The states of cards. MOR knows hidden, sold and free cards; the findings put some of them into other states.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::mor_import::error::ImportError;

/// Neither sold nor hidden, nor in another state.
pub const FREE: &str = "free";
/// The states that are counted. The numbers of sold and hidden cards are compared as columns of MOR.
pub const STATES: [&str; 6] = [FREE, "reserved", "assigned", "blocked", "quarantined", "retired"];

/// The state of the row `live` of `cards`, in PostgreSQL. Unlike `card_state`, it reads no payments: a card that was
/// sold here is sold in its column too.
pub const STATE: &str = "case
    when live.retired_at is not null then 'retired'
    when live.quarantined_at is not null then 'quarantined'
    when live.hidden <> 0 then 'hidden'
    when live.withheld = 'blocked' then 'blocked'
    when live.sold <> 0 then 'sold'
    when live.withheld is not null then live.withheld
    else 'free' end";

/// The condition of a card that is neither sold nor hidden in MOR, over texts of its columns, in both databases. `has`:
/// whether MOR has the column.
pub fn is_free(has: impl Fn(&str) -> bool) -> String {
    let columns = ["sold", "hidden"].into_iter().filter(|&column| has(column));
    let conditions: Vec<String> = columns.map(|column| format!("coalesce({column}, '') in ('0', '')")).collect();
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" and ") }
}

/// Cards of one key that a finding has put into a state.
#[derive(Debug, sqlx::FromRow)]
pub struct Moved {
    /// What the sums are grouped by.
    pub key: String,
    /// The state.
    pub state: String,
    /// How many cards.
    pub cards: i64,
    /// How many of them would be free without the finding.
    pub from_free: i64,
}

/// Returns the cards that findings have put into another state than MOR's. `rows`: the cards with their ids and the
/// texts of MOR's columns.
pub async fn moved_by_findings(
    target: &mut PgConnection,
    key: &str,
    is_free: &str,
    rows: &str,
    run_id: i64,
) -> Result<Vec<Moved>, ImportError> {
    let sql = format!(
        r#"with outcome as materialized (
               select id, bool_or(decision = 'retire') as is_retired, bool_or(decision = 'quarantine') as is_quarantined
               from import_findings
               where run_id = {run_id} and "table" = 'cards' and decision in ('retire', 'quarantine', 'reserve')
               group by id
           ), moved as (
               select {key} as key, {is_free} as is_free, is_retired, is_quarantined from {rows} join outcome using (id)
           )
           select key, state, count(*) as cards, count(*) filter (where is_free) as from_free
           from (
               select key, is_free, case
                   when is_retired then 'retired' when is_quarantined then 'quarantined' else 'reserved' end as state
               from moved where is_free or is_retired or is_quarantined
           ) card
           group by key, state"#
    );
    Ok(sqlx::query_as(AssertSqlSafe(sql)).fetch_all(target).await?)
}
