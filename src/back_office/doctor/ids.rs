//! Checks of ids and of the table `actions`, which grow with traffic.

use sqlx::PgConnection;

use super::Check;

/// Shares of a sequence's ids, in percent.
const USED_WARNING_PERCENT: f64 = 50.0;
const USED_PROBLEM_PERCENT: f64 = 90.0;
/// Warning threshold for stored audit rows of refused requests: about 6 GB.
const REFUSALS_MAX: f32 = 10_000_000.0;

/// Checks which share of its ids each sequence has used. After the last id, every insert into its table fails.
pub async fn check_sequences(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let sequences = sqlx::query!(
        r#"select sequencename::text as "name!", last_value as "last_value!", max_value as "max_value!",
               last_value * 100.0::double precision / max_value as "percent!"
           from pg_sequences where schemaname = current_schema() and last_value is not null
           order by 4 desc, 1"#
    );
    let sequences = sequences.fetch_all(connection).await?;
    let used: Vec<String> = sequences
        .iter()
        .filter(|sequence| sequence.percent >= USED_WARNING_PERCENT)
        .map(|sequence| format!("{} ({:.0} %, up to {})", sequence.name, sequence.percent, sequence.max_value))
        .collect();
    let is_problem = sequences.iter().any(|sequence| sequence.percent >= USED_PROBLEM_PERCENT);
    Ok(Check::ok_if_empty("ids", &used, "every sequence has at least half of its ids left", |names| {
        let message = format!("sequences with few ids left: {names}; after the last id, inserts fail");
        let advice = "find what uses the ids; if a range is unused, run `alter sequence NAME restart with START`";
        if is_problem { Check::problem("ids", message, advice) } else { Check::warning("ids", message, advice) }
    }))
}

/// Checks whether many audit rows of refused requests are stored and none are deleted. The number is PostgreSQL's
/// estimate: counting them would read them all.
pub async fn check_refusals(connection: &mut PgConnection, retention_days: u32) -> sqlx::Result<Check> {
    let rows = sqlx::query_scalar!(
        r#"select greatest(reltuples, 0) as "rows!" from pg_class
           where relname = 'actions_refusals' and relnamespace = quote_ident(current_schema())::regnamespace"#
    );
    let rows = rows.fetch_optional(connection).await?.unwrap_or(0.0);
    Ok(if rows >= REFUSALS_MAX && retention_days == 0 {
        Check::warning(
            "audit",
            format!("about {rows:.0} audit rows of refused requests are stored, and none are ever deleted"),
            "set audit_retention_days",
        )
    } else {
        Check::ok("audit", format!("about {rows:.0} audit rows of refused requests are stored"))
    })
}
