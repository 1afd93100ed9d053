//! Who may ask, and by which settings: users with their rights, `conflines`, currencies. They change rarely and every request
//! needs them, so they are kept in memory, and forgotten as soon as the database says that one of them changed.
//!
//! What is remembered counts only while the database's word can be relied on: a listening connection is asked for a sign
//! of life several times a second; when it is silent for most of a second, everything is read anew for each request.

mod records;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::time::timeout;

use self::records::Confline;
pub use self::records::{Currencies, Currency, Key, PREVIOUS_KEY, SETTINGS, Settings, User, UserType};
use crate::config::{Secret, Switch};

const CHANNEL: &str = "mortise_changes";
/// How long silence on the listening connection is bridged. A change takes effect everywhere within this time, even if
/// the connection is cut without a word.
const TRUST: Duration = Duration::from_millis(800);
const SIGN_OF_LIFE: Duration = Duration::from_millis(250);
/// Everything is read anew after this time, whatever is said.
const OLDEST: Duration = Duration::from_secs(30);
/// Users that are remembered at most; beyond it all are forgotten and the busy ones are soon back.
const MOST_USERS: usize = 10_000;
/// In seconds.
const ROUND_TRIPS: [f64; 10] = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 0.8];

/// The database's word on users, settings and currencies, remembered where it may be.
#[derive(Debug)]
pub struct Directory {
    pool: PgPool,
    /// What the listening needs doesn't wait behind requests.
    errands: PgPool,
    cache: Switch,
    memory: Mutex<Memory>,
    /// How long the database takes to answer the simplest question, in seconds.
    pub round_trips: Histogram,
}

/// How memory is.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct State {
    pub is_trusted: bool,
    pub users: usize,
    /// How often everything was forgotten.
    pub forgotten: u64,
}

#[derive(Debug, Default)]
struct Memory {
    /// Until when what is kept may be used.
    trusted: Option<Instant>,
    /// Counts what was forgotten, so that an answer that was under way meanwhile isn't kept.
    forgotten: u64,
    users: HashMap<String, Arc<User>>,
    settings: HashMap<i32, Arc<Settings>>,
    currencies: Option<Arc<Currencies>>,
}

impl Memory {
    fn is_trusted(&self) -> bool {
        self.trusted.is_some_and(|until| Instant::now() < until)
    }

    fn forget(&mut self) {
        *self = Self { trusted: self.trusted, forgotten: self.forgotten + 1, ..Self::default() };
    }
}

impl Directory {
    /// A directory that remembers nothing yet. `errands`: connections that requests don't use.
    pub fn new(pool: PgPool, errands: PgPool, cache: Switch) -> Self {
        Self { pool, errands, cache, memory: Mutex::default(), round_trips: Histogram::new(ROUND_TRIPS) }
    }

    /// Whether things are kept in memory.
    pub fn remembers(&self) -> bool {
        self.cache == Switch::On
    }

    /// The user of that name: the lowest id, letter case and trailing spaces aside.
    pub async fn user(&self, name: &str) -> sqlx::Result<Option<Arc<User>>> {
        // As it was sent: what the database folds together is its own business.
        let forgotten = match self.look(|memory| memory.users.get(name).cloned()) {
            Ok(user) => return Ok(Some(user)),
            Err(forgotten) => forgotten,
        };
        let Some(user) = self.read_user(name).await?.map(Arc::new) else { return Ok(None) };
        self.keep(forgotten, |memory| {
            if memory.users.len() >= MOST_USERS {
                memory.users.clear();
            }
            memory.users.insert(name.to_owned(), user.clone());
        });
        Ok(Some(user))
    }

    async fn read_user(&self, name: &str) -> sqlx::Result<Option<User>> {
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
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(|row| User {
            id: row.id,
            usertype: row.usertype.as_str().into(),
            owner_id: row.owner_id,
            shut_out: row.shut_out,
            password: row.password.into(),
            password_argon2: row.password_argon2.map(Secret::from),
            currency_id: row.currency_id,
            rights: row.rights.into_iter().zip(row.values).collect(),
        }))
    }

    /// An owner's settings (owner 0: the system's).
    pub async fn settings(&self, owner: i32) -> sqlx::Result<Arc<Settings>> {
        self.settings_by(&self.pool, owner).await
    }

    async fn settings_by(&self, pool: &PgPool, owner: i32) -> sqlx::Result<Arc<Settings>> {
        let forgotten = match self.look(|memory| memory.settings.get(&owner).cloned()) {
            Ok(settings) => return Ok(settings),
            Err(forgotten) => forgotten,
        };
        let rows = sqlx::query_as!(
            Confline,
            r#"select distinct on (name) name as "name!", coalesce(value, '') as "value!", coalesce(value2, '') as "value2!",
                   extract(epoch from now())::bigint as "now!"
               from conflines where owner_id = $1 and name = any($2) order by name, id"#,
            owner,
            &SETTINGS.map(str::to_owned)
        )
        .fetch_all(pool)
        .await?;
        let settings = Arc::new(Settings::new(owner, rows));
        self.keep(forgotten, |memory| {
            memory.settings.insert(owner, settings.clone());
        });
        Ok(settings)
    }

    /// An owner's settings, if they can be had without waiting for the database.
    pub async fn settings_at_hand(&self, owner: i32) -> Option<Arc<Settings>> {
        match self.cache {
            Switch::On => self.look(|memory| memory.settings.get(&owner).cloned()).ok(),
            Switch::Off => self.settings(owner).await.ok(),
        }
    }

    /// All currencies.
    pub async fn currencies(&self) -> sqlx::Result<Arc<Currencies>> {
        let forgotten = match self.look(|memory| memory.currencies.clone()) {
            Ok(currencies) => return Ok(currencies),
            Err(forgotten) => forgotten,
        };
        let rows = sqlx::query_as!(
            Currency,
            r#"select id, rtrim(name) as "name!", coalesce(exchange_rate, 1) as "exchange_rate!", active = 1 as "active!"
               from currencies order by id"#
        )
        .fetch_all(&self.pool)
        .await?;
        let currencies = Arc::new(Currencies::from(rows));
        self.keep(forgotten, |memory| memory.currencies = Some(currencies.clone()));
        Ok(currencies)
    }

    /// How memory is, for whoever watches.
    pub fn state(&self) -> State {
        let memory = self.memory();
        State { is_trusted: memory.is_trusted(), users: memory.users.len(), forgotten: memory.forgotten }
    }

    /// What memory has, or the count by which an answer of the database can be kept.
    fn look<T>(&self, find: impl FnOnce(&Memory) -> Option<T>) -> Result<T, u64> {
        let memory = self.memory();
        if memory.is_trusted() { find(&memory).ok_or(memory.forgotten) } else { Err(memory.forgotten) }
    }

    fn keep(&self, forgotten: u64, put: impl FnOnce(&mut Memory)) {
        let mut memory = self.memory();
        if memory.is_trusted() && memory.forgotten == forgotten {
            put(&mut memory);
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to the database until the pool is closed. Run it beside the server.
    pub async fn listen(&self) {
        while self.remembers() && !self.pool.is_closed() {
            match self.hear().await {
                Ok(()) | Err(sqlx::Error::PoolClosed) => {}
                Err(error) => {
                    tracing::warn!(%error, "the database can't be heard: everything is read anew for each request");
                    tokio::time::sleep(SIGN_OF_LIFE).await;
                }
            }
            let mut memory = self.memory();
            memory.trusted = None;
            memory.forget();
        }
    }

    /// Keeps memory true until the listening connection is lost.
    async fn hear(&self) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(&self.errands).await?;
        listener.listen(CHANNEL).await?;
        self.memory().forget();
        let mut since = Instant::now();
        loop {
            let asked = Instant::now();
            let answer = timeout(TRUST, sqlx::query("select 1").execute(&mut listener)).await;
            self.round_trips.observe(asked.elapsed().as_secs_f64());
            answer.map_err(|_| sqlx::Error::PoolTimedOut)??;
            let mut changed = false;
            while listener.next_buffered().is_some() {
                changed = true;
            }
            {
                let mut memory = self.memory();
                // A restored dump brings its rows before its triggers: nothing is told of those.
                if changed || since.elapsed() > OLDEST {
                    memory.forget();
                    since = Instant::now();
                }
                // What changed before the question was asked has been heard with the answer.
                memory.trusted = Some(asked + TRUST);
            }
            // For refusals that don't wait for the database.
            timeout(TRUST, self.settings_by(&self.errands, 0)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
            match timeout(SIGN_OF_LIFE, listener.try_recv()).await {
                Err(_) => {}
                Ok(Ok(Some(_))) => self.memory().forget(),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}
