//! What can happen to a server and its database. A fault lasts until clients have felt it; then it is mended.

use std::io::Write;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use sqlx::Connection;

use super::clients::Clients;
use super::world::{Database, External, World};
use crate::harness::process::postmaster;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of the server; its PostgreSQL goes on, and the next server takes it up.
    KillServer,
    /// `kill -9` of the PostgreSQL that the server looks after.
    KillManagedPostgres,
    /// Of both.
    KillBoth,
    /// `kill -9` of the server, on a PostgreSQL of somebody else's.
    KillServerOnly,
    /// `kill -9` of that PostgreSQL.
    KillPostgres,
    /// The database can't be reached, and comes back.
    DatabaseAway,
    /// Connections are cut when the database has done what it was asked for, before anybody hears of it.
    CutAfterCommit,
    /// Somebody else holds a lock that some requests need.
    LockHeld,
    /// Somebody holds one that nearly every request needs: all connections are taken, and others wait for them.
    PoolFull,
    /// The database's disk is full.
    DiskFull,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::KillServer,
        Self::KillManagedPostgres,
        Self::KillBoth,
        Self::KillServerOnly,
        Self::KillPostgres,
        Self::DatabaseAway,
        Self::CutAfterCommit,
        Self::LockHeld,
        Self::PoolFull,
        Self::DiskFull,
    ];

    /// Whether a server dies: then it may be that it has sent an e-mail, and nobody knows.
    pub fn kills_servers(self) -> bool {
        matches!(self, Self::KillServer | Self::KillServerOnly | Self::KillBoth)
    }

    pub fn is_managed(self) -> bool {
        matches!(self, Self::KillServer | Self::KillManagedPostgres | Self::KillBoth)
    }

    pub fn can_strike(self, world: &World) -> bool {
        match &world.database {
            Database::External(external) if self == Self::DiskFull => external.has_small_disk,
            _ => true,
        }
    }

    /// Strikes, and mends what it broke.
    pub async fn strike(self, world: &World, clients: &Clients, random: &mut fastrand::Rng) {
        let felt = random.usize(1..6);
        match (self, &world.database) {
            (Self::KillServer | Self::KillServerOnly, _) => {
                world.kill_server();
                clients.until_unknown(felt).await;
                // What it was sending is free by and by; nobody need wait for that here.
                world.sql("update email_outbox set claimed_until = null where claimed_until is not null").await;
                world.start_server();
            }
            (Self::KillManagedPostgres, Database::Managed { data }) => {
                kill_process(postmaster(data.path()).unwrap(), Signal::KILL).unwrap();
                clients.until_unknown(1).await;
            }
            (Self::KillBoth, Database::Managed { data }) => {
                let postgres = postmaster(data.path()).unwrap();
                world.kill_server();
                kill_process(postgres, Signal::KILL).unwrap();
                clients.until_unknown(felt).await;
                world.start_server();
            }
            (Self::KillPostgres, Database::External(external)) => {
                external.kill();
                clients.until_unknown(felt).await;
                external.admin().await;
            }
            (Self::DatabaseAway, Database::External(external)) => {
                external.wire.set_away(true);
                clients.until_unknown(felt).await;
                external.wire.set_away(false);
            }
            (Self::CutAfterCommit, Database::External(external)) => {
                for _ in 0..felt {
                    let commands = ["COMMIT", "SELECT 2", "SELECT 3"];
                    external.wire.cut_at(commands[random.usize(..commands.len())]);
                    external.wire.until_cut().await;
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
                hold(world, clients, felt, locks[random.usize(..locks.len())]).await;
            }
            (Self::PoolFull, _) => {
                hold(world, clients, felt + 10, "lock table payments, cardgroups, tariffs in exclusive mode").await
            }
            (Self::DiskFull, Database::External(external)) => {
                fill(external);
                clients.until_unknown(felt).await;
                std::fs::remove_file(external.ballast()).unwrap();
                // A PostgreSQL that couldn't write its log ended itself.
                external.admin().await;
            }
            (fault, _) => unreachable!("{fault:?} strikes the other world"),
        }
    }
}

/// Holds a lock until clients have waited for it in vain, or the round would be over without.
async fn hold(world: &World, clients: &Clients, felt: usize, lock: &'static str) {
    let mut connection = world.connection().await;
    let mut transaction = connection.begin().await.unwrap();
    sqlx::raw_sql(lock).execute(&mut *transaction).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_secs(5), clients.until_unknown(felt)).await;
    transaction.rollback().await.unwrap();
}

fn fill(external: &External) {
    let mut ballast = std::fs::File::create(external.ballast()).unwrap();
    let zeros = vec![0; 64 * 1024];
    while ballast.write_all(&zeros).is_ok() {}
    // Down to the last page.
    while ballast.write_all(&zeros[..4096]).is_ok() {}
}
