//! The connections beside those of requests. Each kind of work has its own, so that work that waits, for example for a
//! table lock, delays no other kind, and none waits behind requests that wait for each other.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use super::{Pool, session};

/// Maximum number of connections for background tasks other than e-mails.
const BACKGROUND_CONNECTIONS_MAX: u32 = 3;
/// Maximum number of connections for e-mails.
const MAIL_CONNECTIONS_MAX: u32 = 2;
/// Maximum number of connections for the console.
const CONSOLE_CONNECTIONS_MAX: u32 = 4;
/// Maximum time of a statement of the console, in milliseconds: a report over years takes some seconds.
const CONSOLE_STATEMENT_TIMEOUT_MS: &str = "30000";
/// Maximum time of a statement on the connection of the change listener, in milliseconds: less than the listener waits.
const LISTENER_STATEMENT_TIMEOUT_MS: &str = "700";
const IDLE_MAX: Duration = Duration::from_secs(60);

impl Pool {
    /// Returns a pool for background tasks (vacuum, audit rows, expiry, metrics), with connections opened on demand.
    pub fn background_pool(&self) -> PgPool {
        self.extra_pool("mortise background", BACKGROUND_CONNECTIONS_MAX, &[])
    }

    /// Returns a pool for e-mails: while one e-mail waits for a lock on the outbox, all e-mails do.
    pub fn mail_pool(&self) -> PgPool {
        self.extra_pool("mortise mail", MAIL_CONNECTIONS_MAX, &[])
    }

    /// Returns a pool for the console, whose pages must not take connections from requests.
    pub fn console_pool(&self) -> PgPool {
        let timeout = ("statement_timeout", CONSOLE_STATEMENT_TIMEOUT_MS);
        self.extra_pool("mortise console", CONSOLE_CONNECTIONS_MAX, &[timeout])
    }

    /// Returns a pool with the single connection of a change listener. Each listener needs a new pool: the connection
    /// of the previous one may still wait for an answer of a database that is no longer reachable.
    pub fn listener_pool(&self) -> PgPool {
        let timeout = LISTENER_STATEMENT_TIMEOUT_MS;
        self.extra_pool("mortise listener", 1, &[("lock_timeout", timeout), ("statement_timeout", timeout)])
    }

    /// Returns the options of a connection outside of the pool, with the name that `pg_stat_activity` shows.
    pub fn connect_options(&self, application_name: &str) -> PgConnectOptions {
        self.0.options.clone().application_name(application_name)
    }

    fn extra_pool(&self, application_name: &str, connections: u32, settings: &[(&str, &str)]) -> PgPool {
        let options = self.connect_options(application_name).options(settings.iter().copied());
        session::pool_options(&options)
            .max_connections(connections)
            .acquire_timeout(self.0.acquire_timeout)
            .idle_timeout(IDLE_MAX)
            .connect_lazy_with(options)
    }
}
