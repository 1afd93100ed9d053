//! The account cache: users with their rights, settings (`conflines`) and currencies. They change rarely and each
//! request needs them, so they are cached in memory. The database notifies the servers of changes, and a change
//! invalidates the whole cache.
//!
//! The cache is valid only while the change listener works: a heartbeat query runs on the listening connection several
//! times a second. If no heartbeat succeeds for 800 ms, each request reads from the database.

mod records;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use secrecy::SecretString;
use sqlx::PgExecutor;
use sqlx::postgres::PgListener;
use tokio::time::timeout;

use self::records::Confline;
pub use self::records::{Currencies, Currency, SYSTEM_CURRENCY_ID, SecretKey, Setting, Settings, User, UserType};
use crate::config::OnOff;
use crate::db::pool::Pool;
use crate::input::USER_NAME_LEN_MAX;

const CHANNEL: &str = "mortise_changes";
/// How long the cache stays valid after the last heartbeat. A change takes effect on all servers within this time, even
/// if the listening connection is cut without notice.
const CACHE_VALIDITY: Duration = Duration::from_millis(800);
const HEARTBEAT: Duration = Duration::from_millis(250);
/// The cache is invalidated after this time, even without a notification.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(30);
/// Maximum number of cached users. At the limit all of them are removed; the active ones are soon cached again.
const CACHED_USERS_MAX: usize = 10_000;
/// Maximum number of cached names that no user has. At the limit all of them are removed.
const CACHED_UNKNOWN_NAMES_MAX: usize = 10_000;
/// Buckets of the histogram of the heartbeat's round-trip time.
const ROUND_TRIP_BUCKETS_S: [f64; 10] = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 0.8];

/// Users, settings and currencies, from memory while the cache is valid, or else from the database.
#[derive(Debug)]
pub struct AccountCache {
    pool: Pool,
    mode: OnOff,
    /// Locked for the time of a lookup only, never during a query.
    snapshot: RwLock<Snapshot>,
    /// Round-trip time of the heartbeat query, in seconds.
    pub round_trip_seconds: Histogram,
}

/// The state of the cache, for monitoring.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct CacheState {
    pub is_valid: bool,
    pub user_count: usize,
    /// How often the whole cache was invalidated.
    pub invalidations: u64,
}

/// The cache does not know whether a user has the name.
#[derive(Debug)]
pub struct NotCached {
    /// The generation of the snapshot that was read.
    generation: u64,
}

/// The cached data. An invalidation replaces it with an empty snapshot of the next generation, which doesn't take
/// results of queries that started under an earlier generation.
#[derive(Debug, Default)]
struct Snapshot {
    /// Number of snapshots before this one.
    generation: u64,
    /// `None`: the cache is invalid.
    valid_until: Option<Instant>,
    /// By user name as clients spell it, without trailing spaces.
    users: HashMap<String, Arc<User>>,
    /// Names that no user has.
    unknown_names: HashSet<String>,
    settings: HashMap<i32, Arc<Settings>>,
    currencies: Option<Arc<Currencies>>,
}

impl Snapshot {
    fn is_valid(&self) -> bool {
        self.valid_until.is_some_and(|valid_until| Instant::now() < valid_until)
    }
}

impl AccountCache {
    /// Creates an empty cache.
    pub fn new(pool: Pool, mode: OnOff) -> Self {
        let round_trip_seconds = Histogram::new(ROUND_TRIP_BUCKETS_S);
        Self { pool, mode, snapshot: RwLock::default(), round_trip_seconds }
    }

    /// Whether the setting `cache` is on.
    pub fn is_enabled(&self) -> bool {
        self.mode == OnOff::On
    }

    /// Returns the user with this name; letter case and trailing spaces are ignored. If several users match, returns
    /// the one with the lowest id.
    pub async fn user(&self, name: &str) -> sqlx::Result<Option<Arc<User>>> {
        match self.cached_user(name) {
            Ok(user) => Ok(user),
            // Boxed, here and below: the future is large and rarely needed.
            Err(NotCached { generation }) => Box::pin(self.load_user(generation, name.trim_end_matches(' '))).await,
        }
    }

    /// Returns the user with this name like [`user`](Self::user), but without a query. `None`: no user has the name.
    ///
    /// # Errors
    ///
    /// [`NotCached`] if only the database knows.
    pub fn cached_user(&self, name: &str) -> Result<Option<Arc<User>>, NotCached> {
        let name = name.trim_end_matches(' ');
        if name.chars().nth(USER_NAME_LEN_MAX).is_some() {
            return Ok(None);
        }
        // The key is the name as sent: only the database decides which letters are equal.
        let find = |snapshot: &Snapshot| match snapshot.users.get(name) {
            Some(user) => Some(Some(user.clone())),
            None => snapshot.unknown_names.contains(name).then_some(None),
        };
        self.lookup(find).map_err(|generation| NotCached { generation })
    }

    /// Reads a user from the database and caches it, or that the name is unknown, in the snapshot of this generation.
    async fn load_user(&self, generation: u64, name: &str) -> sqlx::Result<Option<Arc<User>>> {
        let user = self.read_user(name).await?.map(Arc::new);
        self.insert(generation, |snapshot| match &user {
            Some(user) => {
                let users = &mut snapshot.users;
                if users.len() >= CACHED_USERS_MAX {
                    users.clear();
                }
                users.insert(name.to_owned(), user.clone());
            }
            None => {
                let names = &mut snapshot.unknown_names;
                if names.len() >= CACHED_UNKNOWN_NAMES_MAX {
                    names.clear();
                }
                names.insert(name.to_owned());
            }
        });
        Ok(user)
    }

    async fn read_user(&self, name: &str) -> sqlx::Result<Option<User>> {
        let mut connection = self.pool.acquire().await?;
        let row = sqlx::query!(
            r#"select id, usertype, coalesce(owner_id, 0) as "owner_id!", blocked = 1 or coalesce(hidden, 0) = 1 as "blocked!",
                   password, password_argon2, currency_id,
                   array(select fold_case(r.name) from acc_group_rights g join acc_rights r on r.id = g.acc_right_id
                         where g.acc_group_id = users.acc_group_id order by g.id desc) as "rights!",
                   array(select g.value from acc_group_rights g join acc_rights r on r.id = g.acc_right_id
                         where g.acc_group_id = users.acc_group_id order by g.id desc) as "values!"
               from users where fold_case(rtrim(username)) = fold_case(rtrim($1)) order by id limit 1"#,
            name
        )
        .fetch_optional(&mut *connection)
        .await?;
        connection.release_clean();
        Ok(row.map(|row| User {
            id: row.id,
            usertype: row.usertype.as_str().into(),
            owner_id: row.owner_id,
            blocked: row.blocked,
            password: row.password.into(),
            password_argon2: row.password_argon2.map(SecretString::from),
            currency_id: row.currency_id,
            rights: row.rights.into_iter().zip(row.values).collect(),
        }))
    }

    /// Returns the settings of an owner (owner 0: the system).
    pub async fn settings(&self, owner: i32) -> sqlx::Result<Arc<Settings>> {
        match self.lookup(|snapshot| snapshot.settings.get(&owner).cloned()) {
            Ok(settings) => Ok(settings),
            Err(generation) => Box::pin(self.load_settings(generation, owner)).await,
        }
    }

    async fn load_settings(&self, generation: u64, owner: i32) -> sqlx::Result<Arc<Settings>> {
        let mut connection = self.pool.acquire().await?;
        let settings = self.read_and_cache_settings(&mut *connection, generation, owner).await?;
        connection.release_clean();
        Ok(settings)
    }

    /// Reads settings from the database and caches them in the snapshot of this generation.
    async fn read_and_cache_settings(
        &self,
        connection: impl PgExecutor<'_>,
        generation: u64,
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
        self.insert(generation, |snapshot| {
            snapshot.settings.insert(owner, settings.clone());
        });
        Ok(settings)
    }

    /// Caches the system's settings: error replies need them without waiting for the database. Reads them on the
    /// listener's own connection, which never has to be waited for.
    async fn ensure_system_settings(&self, listener: &mut PgListener) -> sqlx::Result<()> {
        if let Err(generation) = self.lookup(|snapshot| snapshot.settings.get(&0).cloned()) {
            self.read_and_cache_settings(listener, generation, 0).await?;
        }
        Ok(())
    }

    /// Returns the settings of an owner if they are cached. With `cache = "off"` they are read from the database.
    pub async fn cached_settings(&self, owner: i32) -> Option<Arc<Settings>> {
        match self.mode {
            OnOff::On => self.lookup(|snapshot| snapshot.settings.get(&owner).cloned()).ok(),
            OnOff::Off => self.settings(owner).await.ok(),
        }
    }

    /// Returns all currencies.
    pub async fn currencies(&self) -> sqlx::Result<Arc<Currencies>> {
        match self.lookup(|snapshot| snapshot.currencies.clone()) {
            Ok(currencies) => Ok(currencies),
            Err(generation) => Box::pin(self.load_currencies(generation)).await,
        }
    }

    async fn load_currencies(&self, generation: u64) -> sqlx::Result<Arc<Currencies>> {
        let mut connection = self.pool.acquire().await?;
        let rows = sqlx::query_as!(
            Currency,
            // A rate that is NaN is unknown, that is, 0: it must not make the other currencies unreadable.
            r#"select id, rtrim(name) as "name!", active = 1 as "active!",
                   case when exchange_rate = 'NaN' then 0 else coalesce(exchange_rate, 1) end as "exchange_rate!"
               from currencies order by id"#
        )
        .fetch_all(&mut *connection)
        .await?;
        connection.release_clean();
        let currencies = Arc::new(Currencies::from(rows));
        self.insert(generation, |snapshot| snapshot.currencies = Some(currencies.clone()));
        Ok(currencies)
    }

    /// Returns the state of the cache, for monitoring.
    pub fn state(&self) -> CacheState {
        let snapshot = self.read();
        CacheState {
            is_valid: snapshot.is_valid(),
            user_count: snapshot.users.len(),
            invalidations: snapshot.generation,
        }
    }

    /// Returns the cached value.
    ///
    /// # Errors
    ///
    /// The current generation if the value is not cached: the value from the database is then [inserted](Self::insert)
    /// with it.
    fn lookup<T>(&self, find: impl FnOnce(&Snapshot) -> Option<T>) -> Result<T, u64> {
        let snapshot = self.read();
        let cached = if snapshot.is_valid() { find(&snapshot) } else { None };
        cached.ok_or(snapshot.generation)
    }

    /// Calls `put` with the snapshot, unless the cache was invalidated since the lookup.
    fn insert(&self, generation: u64, put: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.write();
        if snapshot.is_valid() && snapshot.generation == generation {
            put(&mut snapshot);
        }
    }

    /// Replaces the snapshot with an empty one, valid until the same time.
    fn invalidate(&self) {
        let old = {
            let mut snapshot = self.write();
            let (generation, valid_until) = (snapshot.generation + 1, snapshot.valid_until);
            std::mem::replace(&mut *snapshot, Snapshot { generation, valid_until, ..Snapshot::default() })
        };
        // Not under the lock: it can have thousands of users.
        drop(old);
    }

    fn read(&self) -> RwLockReadGuard<'_, Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Snapshot> {
        self.snapshot.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for changes until the pool is closed. Returns at once if the cache is disabled.
    pub async fn listen(&self) {
        while self.is_enabled() && !self.pool.is_closed() {
            match self.listen_once().await {
                Ok(()) | Err(sqlx::Error::PoolClosed) => {}
                Err(error) => {
                    tracing::warn!(%error, "change listener lost; cache disabled");
                    tokio::time::sleep(HEARTBEAT).await;
                }
            }
            self.write().valid_until = None;
            self.invalidate();
        }
    }

    /// Keeps the cache up to date until the listening connection is lost.
    async fn listen_once(&self) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(&self.pool.listener_pool()).await?;
        timeout(CACHE_VALIDITY, listener.listen(CHANNEL)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        self.invalidate();
        let mut invalidated_at = Instant::now();
        loop {
            let started_at = Instant::now();
            let heartbeat = timeout(CACHE_VALIDITY, sqlx::query("select 1").execute(&mut listener)).await;
            self.round_trip_seconds.observe(started_at.elapsed().as_secs_f64());
            heartbeat.map_err(|_| sqlx::Error::PoolTimedOut)??;
            let mut changed = false;
            while listener.next_buffered().is_some() {
                changed = true;
            }
            // A restored dump inserts its rows before it creates the triggers: those changes are not notified.
            if changed || invalidated_at.elapsed() > SNAPSHOT_AGE_MAX {
                self.invalidate();
                invalidated_at = Instant::now();
            }
            // The notifications of all changes before the heartbeat query have arrived together with its result.
            self.write().valid_until = Some(started_at + CACHE_VALIDITY);
            timeout(CACHE_VALIDITY, self.ensure_system_settings(&mut listener))
                .await
                .map_err(|_| sqlx::Error::PoolTimedOut)??;
            match timeout(HEARTBEAT, listener.try_recv()).await {
                Err(_) => {}
                Ok(Ok(Some(_))) => self.invalidate(),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}
