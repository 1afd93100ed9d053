//! Who may ask, and by which settings: users with their rights, `conflines`, currencies. They change rarely and every request
//! needs them, so they are kept in memory, and forgotten as soon as the database says that one of them changed.
//!
//! What is remembered counts only while the database's word can be relied on: a listening connection is asked for a sign
//! of life several times a second; when it is silent for most of a second, everything is read anew for each request.

mod records;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use foldhash::fast;
use papaya::HashMap;
use prometheus_client::metrics::histogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use sqlx::postgres::PgListener;
use sqlx::{PgConnection, PgPool};
use tokio::time::timeout;

use self::records::Confline;
pub use self::records::{Currencies, Currency, SecretKey, Setting, Settings, User, UserType};
use crate::config::{OnOff, Secret};
use crate::db::pool::Pool;

const CHANNEL: &str = "mortise_changes";
/// How long silence on the listening connection is bridged. A change takes effect everywhere within this time, even if
/// the connection is cut without a word.
const CACHE_VALIDITY: Duration = Duration::from_millis(800);
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Everything is read anew after this time, whatever is said.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(30);
/// Users that are remembered at most; beyond it all are forgotten and the busy ones are soon back.
const CACHED_USERS_MAX: usize = 10_000;
/// In bytes. Spaces behind a name don't count, so anybody can send one of any length.
const USERNAME_LEN_MAX: usize = 255;
/// In seconds.
const ROUND_TRIP_BUCKETS_S: [f64; 10] = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 0.8];

/// The database's word on users, settings and currencies, remembered where it may be.
#[derive(Debug)]
pub struct AccountCache {
    pool: Pool,
    /// What the listening needs doesn't wait behind requests.
    background_pool: PgPool,
    mode: OnOff,
    snapshot: ArcSwap<Snapshot>,
    /// Until when memory may be used, in microseconds by [`now`]; 0: not at all.
    valid_until_us: AtomicU64,
    /// How long the database takes to answer the simplest question, in seconds.
    pub round_trip_seconds: Histogram,
}

/// How memory is.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct CacheState {
    pub is_valid: bool,
    pub user_count: usize,
    /// How often everything was forgotten.
    pub invalidations: u64,
}

/// Every request reads it, so nobody waits for anybody. To forget is to begin another one: what the database answered to questions
/// from before isn't kept in it.
#[derive(Debug, Default)]
struct Snapshot {
    /// How many went before it.
    generation: u64,
    /// By names as clients spell them, so the hash is one that they can't play with.
    users: HashMap<String, Arc<User>>,
    settings: HashMap<i32, Arc<Settings>, fast::RandomState>,
    currencies: OnceLock<Arc<Currencies>>,
}

impl AccountCache {
    /// A directory that remembers nothing yet. `errands`: connections that requests don't use.
    pub fn new(pool: Pool, background_pool: PgPool, mode: OnOff) -> Self {
        let (snapshot, valid_until_us) = (ArcSwap::default(), AtomicU64::new(0));
        Self {
            pool,
            background_pool,
            mode,
            snapshot,
            valid_until_us,
            round_trip_seconds: Histogram::new(ROUND_TRIP_BUCKETS_S),
        }
    }

    /// Whether things are kept in memory.
    pub fn is_enabled(&self) -> bool {
        self.mode == OnOff::On
    }

    /// The user of that name: the lowest id, letter case and trailing spaces aside.
    pub async fn user(&self, name: &str) -> sqlx::Result<Option<Arc<User>>> {
        // As it was sent: what the database folds together is its own business.
        match self.lookup(|memory| memory.users.pin().get(name).cloned()) {
            Ok(user) => Ok(Some(user)),
            // In a box, here and below: it is large, and rare.
            Err(number) => Box::pin(self.load_user(number, name)).await,
        }
    }

    /// A user from the database, into the memory with a number.
    async fn load_user(&self, number: u64, name: &str) -> sqlx::Result<Option<Arc<User>>> {
        let Some(user) = self.read_user(name).await?.map(Arc::new) else { return Ok(None) };
        if name.len() <= USERNAME_LEN_MAX {
            self.insert(number, |memory| {
                let users = memory.users.pin();
                if users.len() >= CACHED_USERS_MAX {
                    users.clear();
                }
                users.insert(name.to_owned(), user.clone());
            });
        }
        Ok(Some(user))
    }

    async fn read_user(&self, name: &str) -> sqlx::Result<Option<User>> {
        let mut connection = self.pool.acquire().await?;
        let found = sqlx::query!(
            r#"select id, usertype, coalesce(owner_id, 0) as "owner_id!", blocked = 1 or hidden = 1 as "shut_out!",
                   password, password_argon2, currency_id,
                   array(select lower(r.name) from acc_group_rights g join acc_rights r on r.id = g.acc_right_id
                         where g.acc_group_id = users.acc_group_id order by g.id desc) as "rights!",
                   array(select g.value from acc_group_rights g join acc_rights r on r.id = g.acc_right_id
                         where g.acc_group_id = users.acc_group_id order by g.id desc) as "values!"
               from users where lower(rtrim(username)) = lower(rtrim($1)) order by id limit 1"#,
            name
        )
        .fetch_optional(&mut *connection)
        .await?;
        connection.release_clean();
        Ok(found.map(|row| User {
            id: row.id,
            usertype: row.usertype.as_str().into(),
            owner_id: row.owner_id,
            blocked: row.shut_out,
            password: row.password.into(),
            password_argon2: row.password_argon2.map(Secret::from),
            currency_id: row.currency_id,
            rights: row.rights.into_iter().zip(row.values).collect(),
        }))
    }

    /// An owner's settings (owner 0: the system's).
    pub async fn settings(&self, owner: i32) -> sqlx::Result<Arc<Settings>> {
        match self.lookup(|memory| memory.settings.pin().get(&owner).cloned()) {
            Ok(settings) => Ok(settings),
            Err(number) => Box::pin(self.load_settings(number, owner)).await,
        }
    }

    async fn load_settings(&self, number: u64, owner: i32) -> sqlx::Result<Arc<Settings>> {
        let mut connection = self.pool.acquire().await?;
        let settings = self.read_and_cache_settings(&mut connection, number, owner).await?;
        connection.release_clean();
        Ok(settings)
    }

    /// Settings from the database, into the memory with a number.
    async fn read_and_cache_settings(
        &self,
        connection: &mut PgConnection,
        number: u64,
        owner: i32,
    ) -> sqlx::Result<Arc<Settings>> {
        let rows = sqlx::query_as!(
            Confline,
            r#"select distinct on (name) name as "name!", coalesce(value, '') as "value!", coalesce(value2, '') as "value2!",
                   extract(epoch from now())::bigint as "now!"
               from conflines where owner_id = $1 and name = any($2) order by name, id"#,
            owner,
            &Setting::owned_names()
        )
        .fetch_all(connection)
        .await?;
        let settings = Arc::new(Settings::new(owner, rows));
        self.insert(number, |memory| {
            memory.settings.pin().insert(owner, settings.clone());
        });
        Ok(settings)
    }

    /// Has the system's settings at hand for refusals, which don't wait for the database.
    async fn ensure_system_settings(&self) -> sqlx::Result<()> {
        if let Err(number) = self.lookup(|memory| memory.settings.pin().get(&0).cloned()) {
            let mut connection = self.background_pool.acquire().await?;
            self.read_and_cache_settings(&mut connection, number, 0).await?;
        }
        Ok(())
    }

    /// An owner's settings, if they can be had without waiting for the database.
    pub async fn cached_settings(&self, owner: i32) -> Option<Arc<Settings>> {
        match self.mode {
            OnOff::On => self.lookup(|memory| memory.settings.pin().get(&owner).cloned()).ok(),
            OnOff::Off => self.settings(owner).await.ok(),
        }
    }

    /// All currencies.
    pub async fn currencies(&self) -> sqlx::Result<Arc<Currencies>> {
        match self.lookup(|memory| memory.currencies.get().cloned()) {
            Ok(currencies) => Ok(currencies),
            Err(number) => Box::pin(self.load_currencies(number)).await,
        }
    }

    async fn load_currencies(&self, number: u64) -> sqlx::Result<Arc<Currencies>> {
        let mut connection = self.pool.acquire().await?;
        let rows = sqlx::query_as!(
            Currency,
            r#"select id, rtrim(name) as "name!", coalesce(exchange_rate, 1) as "exchange_rate!", active = 1 as "active!"
               from currencies order by id"#
        )
        .fetch_all(&mut *connection)
        .await?;
        connection.release_clean();
        let currencies = Arc::new(Currencies::from(rows));
        self.insert(number, |memory| {
            // Who was quicker has read the same.
            let _ = memory.currencies.set(currencies.clone());
        });
        Ok(currencies)
    }

    /// How memory is, for whoever watches.
    pub fn state(&self) -> CacheState {
        let memory = self.snapshot.load();
        CacheState { is_valid: self.is_valid(), user_count: memory.users.len(), invalidations: memory.generation }
    }

    /// What memory has, or the number of the memory that the database's answer belongs into.
    fn lookup<T>(&self, find: impl FnOnce(&Snapshot) -> Option<T>) -> Result<T, u64> {
        // In this order: what is found is at least as new as the trust in it.
        let is_trusted = self.is_valid();
        let memory = self.snapshot.load();
        let found = if is_trusted { find(&memory) } else { None };
        found.ok_or(memory.generation)
    }

    fn insert(&self, number: u64, put: impl FnOnce(&Snapshot)) {
        let memory = self.snapshot.load();
        if self.is_valid() && memory.generation == number {
            put(&memory);
        }
    }

    fn is_valid(&self) -> bool {
        as_micros_u64(coarse_now()) < self.valid_until_us.load(Ordering::Acquire)
    }

    /// Only the listener forgets.
    fn invalidate(&self) {
        let number = self.snapshot.load().generation + 1;
        self.snapshot.store(Arc::new(Snapshot { generation: number, ..Snapshot::default() }));
    }

    /// Listens to the database until the pool is closed. Run it beside the server.
    pub async fn listen(&self) {
        while self.is_enabled() && !self.pool.is_closed() {
            match self.listen_once().await {
                Ok(()) | Err(sqlx::Error::PoolClosed) => {}
                Err(error) => {
                    tracing::warn!(%error, "the database can't be heard: everything is read anew for each request");
                    tokio::time::sleep(HEARTBEAT).await;
                }
            }
            self.valid_until_us.store(0, Ordering::Release);
            self.invalidate();
        }
    }

    /// Keeps memory true until the listening connection is lost.
    async fn listen_once(&self) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(&self.background_pool).await?;
        listener.listen(CHANNEL).await?;
        self.invalidate();
        let mut since = Instant::now();
        loop {
            let (asked, then) = (Instant::now(), coarse_now());
            let answer = timeout(CACHE_VALIDITY, sqlx::query("select 1").execute(&mut listener)).await;
            self.round_trip_seconds.observe(asked.elapsed().as_secs_f64());
            answer.map_err(|_| sqlx::Error::PoolTimedOut)??;
            let mut changed = false;
            while listener.next_buffered().is_some() {
                changed = true;
            }
            // A restored dump brings its rows before its triggers: nothing is told of those.
            if changed || since.elapsed() > SNAPSHOT_AGE_MAX {
                self.invalidate();
                since = Instant::now();
            }
            // What changed before the question was asked has been heard with the answer.
            self.valid_until_us.store(as_micros_u64(then + CACHE_VALIDITY), Ordering::Release);
            timeout(CACHE_VALIDITY, self.ensure_system_settings()).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
            match timeout(HEARTBEAT, listener.try_recv()).await {
                Err(_) => {}
                Ok(Ok(Some(_))) => self.invalidate(),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

/// The time by the system's clock that only goes forward, at most ten milliseconds late. Each request asks several times, and the exact
/// clock would take ten times as long to answer.
fn coarse_now() -> Duration {
    clock_gettime(ClockId::MonotonicCoarse).try_into().unwrap_or(Duration::MAX)
}

fn as_micros_u64(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
