//! What can happen to a server and its database. A fault lasts until clients have felt it; then it is mended.

use std::io::Write;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use sqlx::Connection;

use super::clients::Clients;
use super::world::{Database, ExternalPostgres, TestEnvironment};
use crate::harness::process::postmaster_pid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of the server; its PostgreSQL goes on, and the next server takes it up.
    KillServer,
    /// `kill -9` of the PostgreSQL that the server looks after.
    KillManagedPostgres,
    /// Of both.
    KillBoth,
    /// `kill -9` of the server, on a PostgreSQL of somebody else's.
    KillServerOnExternal,
    /// `kill -9` of that PostgreSQL.
    KillExternalPostgres,
    /// The database can't be reached, and comes back.
    DatabaseUnreachable,
    /// Connections are cut when the database has done what it was asked for, before anybody hears of it.
    CutAfterCommit,
    /// Somebody else holds a lock that some requests need.
    LockHeld,
    /// Somebody holds one that nearly every request needs: all connections are taken, and others wait for them.
    PoolExhausted,
    /// The database's disk is full.
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

    /// Whether a server dies: then it may be that it has sent an e-mail, and nobody knows.
    pub fn kills_servers(self) -> bool {
        matches!(self, Self::KillServer | Self::KillServerOnExternal | Self::KillBoth)
    }

    pub fn targets_managed_postgres(self) -> bool {
        matches!(self, Self::KillServer | Self::KillManagedPostgres | Self::KillBoth)
    }

    pub fn is_supported(self, world: &TestEnvironment) -> bool {
        match &world.database {
            Database::External(external) if self == Self::DiskFull => external.has_small_disk,
            _ => true,
        }
    }

    /// Strikes, and mends what it broke.
    pub async fn inject(self, world: &TestEnvironment, clients: &Clients, random: &mut fastrand::Rng) {
        let felt = random.usize(1..6);
        match (self, &world.database) {
            (Self::KillServer | Self::KillServerOnExternal, _) => {
                world.kill_server();
                clients.wait_for_unanswered(felt).await;
                // What it was sending is free by and by; nobody need wait for that here.
                world.execute("update email_outbox set claimed_until = null where claimed_until is not null").await;
                world.start_server();
            }
            (Self::KillManagedPostgres, Database::Managed { data }) => {
                kill_process(postmaster_pid(data.path()).unwrap(), Signal::KILL).unwrap();
                clients.wait_for_unanswered(1).await;
            }
            (Self::KillBoth, Database::Managed { data }) => {
                let postgres = postmaster_pid(data.path()).unwrap();
                world.kill_server();
                kill_process(postgres, Signal::KILL).unwrap();
                clients.wait_for_unanswered(felt).await;
                world.start_server();
            }
            (Self::KillExternalPostgres, Database::External(external)) => {
                external.kill();
                clients.wait_for_unanswered(felt).await;
                external.connect_as_admin().await;
            }
            (Self::DatabaseUnreachable, Database::External(external)) => {
                external.proxy.set_unreachable(true);
                clients.wait_for_unanswered(felt).await;
                external.proxy.set_unreachable(false);
            }
            (Self::CutAfterCommit, Database::External(external)) => {
                for _ in 0..felt {
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
                hold_lock(world, clients, felt, locks[random.usize(..locks.len())]).await;
            }
            (Self::PoolExhausted, _) => {
                hold_lock(world, clients, felt + 10, "lock table payments, cardgroups, tariffs in exclusive mode").await
            }
            (Self::DiskFull, Database::External(external)) => {
                fill_disk(external);
                clients.wait_for_unanswered(felt).await;
                std::fs::remove_file(external.disk_filler_path()).unwrap();
                // A PostgreSQL that couldn't write its log ended itself.
                external.connect_as_admin().await;
            }
            (fault, _) => unreachable!("{fault:?} strikes the other world"),
        }
    }
}

/// Holds a lock until clients have waited for it in vain, or the round would be over without.
async fn hold_lock(world: &TestEnvironment, clients: &Clients, felt: usize, lock: &'static str) {
    let mut connection = world.connect().await;
    let mut transaction = connection.begin().await.unwrap();
    sqlx::raw_sql(lock).execute(&mut *transaction).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_secs(5), clients.wait_for_unanswered(felt)).await;
    transaction.rollback().await.unwrap();
}

fn fill_disk(external: &ExternalPostgres) {
    let mut ballast = std::fs::File::create(external.disk_filler_path()).unwrap();
    let zeros = vec![0; 64 * 1024];
    while ballast.write_all(&zeros).is_ok() {}
    // Down to the last page.
    while ballast.write_all(&zeros[..4096]).is_ok() {}
}
