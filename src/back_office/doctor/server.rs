//! Checks of the PostgreSQL server.

use std::time::SystemTime;

use sqlx::{PgConnection, PgPool};

use super::{Check, join_limited};
use crate::db::session;

/// The allowed difference of the two clocks, in milliseconds.
const CLOCK_SKEW_MAX_MS: i64 = 2_000;
/// Warning threshold for the age of the oldest transaction ID, in transactions: half of the age at which PostgreSQL
/// stops.
const XID_AGE_MAX: i32 = 1_000_000_000;

/// Reports the PostgreSQL version, the database and its size, and the role.
pub async fn check_version(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let row = sqlx::query!(
        r#"select current_setting('server_version') as "version!", current_database()::text as "database!", current_user::text as "role!",
               pg_size_pretty(pg_database_size(current_database())) as "size!""#
    );
    let row = row.fetch_one(connection).await?;
    let message = format!("PostgreSQL {}, database {} ({}), role {}", row.version, row.database, row.size, row.role);
    Ok(Check::ok("database", message))
}

/// Checks the settings of this session. Those that the program relies on were checked when it connected: reports which
/// defaults it replaces.
pub async fn check_session(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let names: Vec<String> = session::checked_names().map(str::to_lowercase).collect();
    let row = sqlx::query!(
        r#"select current_setting('default_transaction_read_only')::boolean as "is_read_only!",
               array(select setting from pg_db_role_setting, unnest(setconfig) setting
                     where setdatabase in (0, (select oid from pg_database where datname = current_database()))
                         and setrole in (0, current_user::regrole) and lower(split_part(setting, '=', 1) collate "C") = any ($1)
                     order by setting) as "replaced!""#,
        &names
    );
    let row = row.fetch_one(connection).await?;
    if row.is_read_only {
        let advice = "if the writes were not stopped on purpose, run \
                      `alter database … reset default_transaction_read_only`, and the same for the role";
        return Ok(Check::problem("session", "default_transaction_read_only is on: nothing can be sold", advice));
    }
    let replaced = match row.replaced.as_slice() {
        [] => String::new(),
        replaced => format!("; they replace these defaults of the database or the role: {}", join_limited(replaced)),
    };
    Ok(Check::ok("session", format!("sessions have the settings that Mortise needs{replaced}")))
}

/// Checks that committed transactions survive a crash.
pub async fn check_durability(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let off = sqlx::query_scalar!(
        r#"select name as "name!" from pg_settings
           where name in ('fsync', 'full_page_writes') and setting = 'off' order by name"#
    );
    let off = off.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("durability", &off, "fsync and full_page_writes are on", |names| {
        Check::problem(
            "durability",
            format!("off: {names}; a power failure can lose sales whose replies were sent"),
            "set it to on in postgresql.conf",
        )
    }))
}

/// Compares the clocks: the validity of keys and cards uses the database's clock, logs use this machine's clock.
#[expect(clippy::disallowed_methods, reason = "the check compares this clock")]
pub async fn check_clock(pool: &PgPool) -> sqlx::Result<Check> {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = || i64::try_from(now()).unwrap_or(i64::MAX);
    // Connect before the measurement: a new connection takes longer than the query.
    let mut connection = pool.acquire().await?;
    let before = now();
    let database_now =
        sqlx::query_scalar!(r#"select (extract(epoch from clock_timestamp()) * 1000)::bigint as "now!""#)
            .fetch_one(&mut *connection)
            .await?;
    let skew_ms = (before - database_now).max(database_now - now()).max(0);
    let message = format!("the clocks of this machine and the database differ by {skew_ms} ms");
    Ok(if skew_ms > CLOCK_SKEW_MAX_MS {
        Check::warning("clock", message, "synchronise both with NTP: times in logs and in the database do not match")
    } else {
        Check::ok("clock", message)
    })
}

/// Checks that autovacuum runs, which removes dead rows and freezes old transaction IDs.
pub async fn check_autovacuum(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let row = sqlx::query!(
        r#"select current_setting('autovacuum') = 'on' and current_setting('track_counts') = 'on' as "on!",
               (select age(datfrozenxid) from pg_database where datname = current_database()) as "age!",
               array(select relname::text from pg_class
                     where relnamespace = quote_ident(current_schema())::regnamespace and reloptions::text like '%autovacuum_enabled=%'
                         and reloptions::text !~ 'autovacuum_enabled=(on|true|1)' order by relname) as "tables!""#
    );
    let row = row.fetch_one(connection).await?;
    Ok(if row.age > XID_AGE_MAX {
        let message =
            format!("the oldest transaction ID is {} transactions old; PostgreSQL stops at 2,000,000,000", row.age);
        let advice = "run `vacuumdb --all --freeze`; the check snapshots shows what blocks the vacuum";
        Check::problem("autovacuum", message, advice)
    } else if !row.on {
        let advice = "set autovacuum and track_counts to on in postgresql.conf";
        Check::warning("autovacuum", "autovacuum or track_counts is off: tables grow and sales slow down", advice)
    } else if !row.tables.is_empty() {
        let advice = "run `alter table NAME reset (autovacuum_enabled)`";
        Check::warning("autovacuum", format!("autovacuum is off for {}", join_limited(&row.tables)), advice)
    } else {
        Check::ok("autovacuum", "autovacuum is on")
    })
}

/// Finds old snapshots: they prevent the vacuum of dead rows, also in `card_stock`.
pub async fn check_snapshots(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let holders = sqlx::query_scalar!(
        r#"select 'process ' || pid || ' (' || coalesce(nullif(application_name, ''), usename, '') || ', since '
               || to_char(xact_start at time zone 'utc', 'YYYY-MM-DD HH24:MI') || ')' as "holder!"
           from pg_stat_activity
           where pid <> pg_backend_pid() and backend_type in ('client backend', 'walsender')
               and coalesce(backend_xmin, backend_xid) is not null and xact_start < now() - interval '1 minute'
               and pid not in (select pid from pg_stat_progress_vacuum)
           union all
           select 'process ' || pid || ' of another role (grant pg_read_all_stats to see it)'
           from pg_stat_activity where backend_type is null and greatest(age(backend_xmin), age(backend_xid)) > 10000
           union all
           select 'prepared transaction ' || gid from pg_prepared_xacts where prepared < now() - interval '1 minute'
           union all
           select case when active then 'replication slot ' else 'inactive replication slot ' end || slot_name
           from pg_replication_slots where not active or age(xmin) > 10000"#
    );
    let holders = holders.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("snapshots", &holders, "no snapshot is older than a minute", |names| {
        Check::warning(
            "snapshots",
            format!("dead rows cannot be vacuumed because of: {names}"),
            "wait for a pg_dump; end others with `select pg_terminate_backend(PROCESS)`, `rollback prepared`; drop a slot",
        )
    }))
}

/// Finds idle transactions, which hold their locks.
pub async fn check_idle_in_transaction(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let idle = sqlx::query_scalar!(
        r#"select 'process ' || pid || ' (' || coalesce(nullif(application_name, ''), usename, '') || ')' as "idle!"
           from pg_stat_activity
           where state like 'idle in transaction%' and state_change < now() - interval '1 minute' and pid <> pg_backend_pid()"#
    );
    let idle = idle.fetch_all(connection).await?;
    Ok(Check::ok_if_empty("idle", &idle, "no transaction is idle for more than a minute", |names| {
        Check::warning(
            "idle",
            format!("idle transactions hold locks: {names}"),
            "close the psql or program that left them open, or run `select pg_terminate_backend(PROCESS)`",
        )
    }))
}
