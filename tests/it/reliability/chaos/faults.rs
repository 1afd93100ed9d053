//! The faults. Each is injected, lasts until clients notice it, and is then repaired.

use std::io::Write;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use sqlx::Connection;

use super::clients::Clients;
use super::environment::{Database, ExternalPostgres, TestEnvironment};
use crate::harness::process::postmaster_pid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of the server. Its PostgreSQL keeps running, and the next server adopts it.
    KillServer,
    /// `kill -9` of the PostgreSQL that the server manages.
    KillManagedPostgres,
    /// `kill -9` of the server and of the PostgreSQL that it manages.
    KillBoth,
    /// `kill -9` of a server with an external PostgreSQL.
    KillServerOnExternal,
    /// `kill -9` of the external PostgreSQL.
    KillExternalPostgres,
    /// The database is unreachable for some time.
    DatabaseUnreachable,
    /// Connections are cut after the database has executed a command and before the server receives the result.
    CutAfterCommit,
    /// Another session holds a lock that some requests need.
    LockHeld,
    /// Another session holds a lock that nearly all requests need: all connections of the pool are in use, and further
    /// requests wait for a connection.
    PoolExhausted,
    /// The disk of the database is full.
    DiskFull,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::KillServer,
        Self::KillManagedPostgres,
        Self::KillBoth,
        Self::KillServerOnExternal,
        Self::KillExternalPostgres,
        Self::DatabaseUnreachable,
        Self::CutAfterCommit,
        Self::LockHeld,
        Self::PoolExhausted,
        Self::DiskFull,
    ];

    /// Whether the fault kills a server, which may have sent an e-mail without recording it.
    pub fn kills_servers(self) -> bool {
        matches!(self, Self::KillServer | Self::KillServerOnExternal | Self::KillBoth)
    }

    pub fn targets_managed_postgres(self) -> bool {
        matches!(self, Self::KillServer | Self::KillManagedPostgres | Self::KillBoth)
    }

    pub fn is_supported(self, environment: &TestEnvironment) -> bool {
        match &environment.database {
            Database::External(external) if self == Self::DiskFull => external.has_small_disk,
            _ => true,
        }
    }

    /// Injects the fault, waits until requests have failed, and repairs it.
    pub async fn inject(self, environment: &TestEnvironment, clients: &Clients, random: &mut fastrand::Rng) {
        let unanswered = random.usize(1..6);
        match (self, &environment.database) {
            (Self::KillServer | Self::KillServerOnExternal, _) => {
                environment.kill_server();
                clients.wait_for_unanswered(unanswered).await;
                // Releases the killed server's claims on e-mails, so that the test need not wait until they expire.
                environment
                    .execute("update email_outbox set claimed_until = null where claimed_until is not null")
                    .await;
                environment.start_server();
            }
            (Self::KillManagedPostgres, Database::Managed { data }) => {
                kill_process(postmaster_pid(data.path()).unwrap(), Signal::KILL).unwrap();
                clients.wait_for_unanswered(1).await;
            }
            (Self::KillBoth, Database::Managed { data }) => {
                let postgres = postmaster_pid(data.path()).unwrap();
                environment.kill_server();
                kill_process(postgres, Signal::KILL).unwrap();
                clients.wait_for_unanswered(unanswered).await;
                environment.start_server();
            }
            (Self::KillExternalPostgres, Database::External(external)) => {
                external.kill();
                clients.wait_for_unanswered(unanswered).await;
                external.connect_as_admin().await;
            }
            (Self::DatabaseUnreachable, Database::External(external)) => {
                external.proxy.set_unreachable(true);
                clients.wait_for_unanswered(unanswered).await;
                external.proxy.set_unreachable(false);
            }
            (Self::CutAfterCommit, Database::External(external)) => {
                for _ in 0..unanswered {
                    let commands = ["COMMIT", "SELECT 2", "SELECT 3"];
                    external.proxy.cut_after_command(commands[random.usize(..commands.len())]);
                    external.proxy.wait_for_cut().await;
                }
            }
            (Self::LockHeld, _) => {
                let locks = [
                    "select from cardgroups where id = 71 for update",
                    "select from users where id > 700 for update",
                    "lock table cards in share row exclusive mode",
                    "lock table idempotency_keys in exclusive mode",
                    "select pg_advisory_xact_lock(hashtextextended('calling_cards_create', 0))",
                ];
                hold_lock(environment, clients, unanswered, locks[random.usize(..locks.len())]).await;
            }
            (Self::PoolExhausted, _) => {
                let lock = "lock table payments, cardgroups, tariffs in exclusive mode";
                hold_lock(environment, clients, unanswered + 10, lock).await
            }
            (Self::DiskFull, Database::External(external)) => {
                fill_disk(external);
                clients.wait_for_unanswered(unanswered).await;
                std::fs::remove_file(external.disk_filler_path()).unwrap();
                // PostgreSQL exits if it cannot write its WAL.
                external.connect_as_admin().await;
            }
            (fault, _) => unreachable!("{fault:?} is for the other environment"),
        }
    }
}

/// Holds a lock until so many requests have failed, but for at most 5 s: the round may have too few requests that need
/// it.
async fn hold_lock(environment: &TestEnvironment, clients: &Clients, unanswered: usize, lock: &'static str) {
    let mut connection = environment.connect().await;
    let transaction = loop {
        let mut transaction = connection.begin().await.unwrap();
        match sqlx::raw_sql(lock).execute(&mut *transaction).await {
            Ok(_) => break transaction,
            // The lock of several tables can meet a transaction that has locked them in another order.
            Err(error) if error.as_database_error().and_then(|error| error.code()).as_deref() == Some("40P01") => {}
            Err(error) => panic!("{lock}: {error}"),
        }
        transaction.rollback().await.unwrap();
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), clients.wait_for_unanswered(unanswered)).await;
    transaction.rollback().await.unwrap();
}

fn fill_disk(external: &ExternalPostgres) {
    let mut filler = std::fs::File::create(external.disk_filler_path()).unwrap();
    let zeros = vec![0; 64 * 1024];
    while filler.write_all(&zeros).is_ok() {}
    // Also the last page.
    while filler.write_all(&zeros[..4096]).is_ok() {}
}
