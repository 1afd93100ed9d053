//! PostgreSQL itself.

use std::time::SystemTime;

use sqlx::{PgConnection, PgPool};

use super::{Check, join_limited};

/// What two clocks may differ by, in milliseconds.
const CLOCK_SKEW_MAX_MS: i64 = 2_000;
/// Half of what PostgreSQL stops at.
const XID_AGE_MAX: i32 = 1_000_000_000;

/// Which PostgreSQL, and what of it.
pub async fn check_version(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let row = sqlx::query!(
        r#"select current_setting('server_version') as "version!", current_database()::text as "database!", current_user::text as "role!",
               pg_size_pretty(pg_database_size(current_database())) as "size!""#
    );
    let row = row.fetch_one(connection).await?;
    let says = format!("PostgreSQL {}, database {} of {}, as {}", row.version, row.database, row.size, row.role);
    Ok(Check::ok("database", says))
}

/// Whether what is committed stays.
pub async fn check_durability(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let off = sqlx::query_scalar!(
        r#"select name as "name!" from pg_settings
           where name in ('fsync', 'synchronous_commit', 'full_page_writes') and setting = 'off' order by name"#
    );
    let off = off.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("durability", &off, "fsync, synchronous_commit and full_page_writes are on", |names| {
        Check::problem(
            "durability",
            format!("{names} is off: a power cut loses sales that were answered"),
            "switch it on in postgresql.conf (and look for it in `alter role` and `alter database`)",
        )
    }))
}

/// Keys and cards are valid by the database's clock, logs have this machine's.
#[expect(clippy::disallowed_methods, reason = "it is this clock that is checked")]
pub async fn check_clock(pool: &PgPool) -> sqlx::Result<Check> {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = || i64::try_from(now()).unwrap_or(i64::MAX);
    // A pool's first connection takes longer than the question.
    let mut connection = pool.acquire().await?;
    let before = now();
    let theirs = sqlx::query_scalar!(r#"select (extract(epoch from clock_timestamp()) * 1000)::bigint as "now!""#)
        .fetch_one(&mut *connection)
        .await?;
    let off = (before - theirs).max(theirs - now()).max(0);
    let says = format!("this machine's and the database's differ by {off} ms");
    Ok(if off > CLOCK_SKEW_MAX_MS {
        Check::warning("clock", says, "set both by NTP: times in logs and in the database don't fit together")
    } else {
        Check::ok("clock", says)
    })
}

/// Whether dead rows are swept, and old transactions' numbers put away.
pub async fn check_autovacuum(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let row = sqlx::query!(
        r#"select current_setting('autovacuum') = 'on' and current_setting('track_counts') = 'on' as "on!",
               (select age(datfrozenxid) from pg_database where datname = current_database()) as "age!",
               array(select relname::text from pg_class
                     where relnamespace = current_schema()::regnamespace and reloptions::text like '%autovacuum_enabled=%'
                         and reloptions::text !~ 'autovacuum_enabled=(on|true|1)' order by relname) as "tables!""#
    );
    let row = row.fetch_one(connection).await?;
    Ok(if row.age > XID_AGE_MAX {
        let says =
            format!("the oldest transaction number is {} transactions old; PostgreSQL stops at 2,000,000,000", row.age);
        Check::problem("autovacuum", says, "run `vacuumdb --all --freeze`, and look for what held it up: see snapshots")
    } else if !row.on {
        let advice = "switch autovacuum and track_counts on in postgresql.conf";
        Check::warning("autovacuum", "it is off: tables grow and sales slow down", advice)
    } else if !row.tables.is_empty() {
        let advice = "alter table NAME reset (autovacuum_enabled)";
        Check::warning("autovacuum", format!("it is off for {}", join_limited(&row.tables)), advice)
    } else {
        Check::ok("autovacuum", "it is on")
    })
}

/// Whoever holds a snapshot for long keeps dead rows from being swept, also in the stock.
pub async fn check_snapshots(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let holders = sqlx::query_scalar!(
        r#"select 'process ' || pid || ' (' || coalesce(nullif(application_name, ''), usename, '') || ', since '
               || to_char(xact_start at time zone 'utc', 'YYYY-MM-DD HH24:MI') || ')' as "holder!"
           from pg_stat_activity
           where pid <> pg_backend_pid() and backend_type = 'client backend' and xact_start < now() - interval '5 minutes'
           union all
           select 'process ' || pid || ' of another role, which this one may not look into (grant pg_read_all_stats)'
           from pg_stat_activity where backend_type is null and age(backend_xmin) > 10000
           union all
           select 'prepared transaction ' || gid from pg_prepared_xacts where prepared < now() - interval '5 minutes'
           union all
           select 'replication slot ' || slot_name || ', which nobody reads' from pg_replication_slots where not active"#
    );
    let holders = holders.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("snapshots", &holders, "no transaction is older than five minutes", |names| {
        Check::warning(
            "snapshots",
            format!("dead rows can't be swept while they last: {names}"),
            "a pg_dump ends by itself; else `select pg_terminate_backend(PROCESS)`, `rollback prepared`, drop the slot",
        )
    }))
}

/// Locks that nobody is using.
pub async fn check_idle_in_transaction(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let idle = sqlx::query_scalar!(
        r#"select 'process ' || pid || ' (' || coalesce(nullif(application_name, ''), usename, '') || ')' as "idle!"
           from pg_stat_activity
           where state like 'idle in transaction%' and state_change < now() - interval '1 minute' and pid <> pg_backend_pid()"#
    );
    let idle = idle.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("idle", &idle, "no transaction is left open", |names| {
        Check::warning(
            "idle",
            format!("transactions that do nothing hold their locks: {names}"),
            "close the psql or program that left them open, or `select pg_terminate_backend(PROCESS)`",
        )
    }))
}
