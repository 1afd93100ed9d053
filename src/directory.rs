//! Who may ask, and by which settings: users with their rights, `conflines`, currencies. They change rarely and every request
//! needs them, so they are kept in memory, and forgotten as soon as the database says that one of them changed.
//!
//! What is remembered counts only while the database's word can be relied on: a listening connection is asked for a sign
//! of life several times a second; when it is silent for most of a second, everything is read anew for each request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bigdecimal::{BigDecimal, RoundingMode};
use sqlx::PgPool;
use sqlx::postgres::PgListener;

use crate::config::{Secret, Switch};
use crate::dialect::Dialect;
use crate::number;

const CHANNEL: &str = "mortise_changes";
/// How long silence on the listening connection is bridged. A change takes effect everywhere within this time, even if
/// the connection is cut without a word.
const TRUST: Duration = Duration::from_millis(800);
const SIGN_OF_LIFE: Duration = Duration::from_millis(250);
/// Everything is read anew after this time, whatever is said.
const OLDEST: Duration = Duration::from_secs(30);
/// Users that are remembered at most; beyond it all are forgotten and the busy ones are soon back.
const MOST_USERS: usize = 10_000;

/// The settings that Mortise reads from `conflines`.
const SETTINGS: [&str; 9] = [
    "Allow_API",
    "Allow_GET_API",
    "API_Secret_Key",
    "API_Disable_hash_checking",
    "XML_API_Extension",
    "CC_Active",
    "Default_device_location_id",
    "Nice_Number_Digits",
    "API_Allow_payments_ower_API",
];

/// A user, as far as admission and the operations need one.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's own column names")]
pub struct User {
    pub id: i32,
    pub usertype: UserType,
    pub owner_id: i32,
    /// Blocked or hidden.
    pub shut_out: bool,
    /// SHA-1 hex, as MOR stores it; empty once the operator has emptied it.
    pub password: Secret,
    /// Ours; goes before `password` where it stands.
    pub password_argon2: Option<Secret>,
    pub currency_id: Option<i32>,
    rights: HashMap<String, i16>,
}

impl User {
    /// The value of a right: 0 none, 1 read, 2 edit. `name` in lower case.
    pub fn right(&self, name: &str) -> i16 {
        self.rights.get(name).copied().unwrap_or(0)
    }
}

/// What kind of user. Whatever MOR doesn't know has the fewest rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "MOR's own words")]
pub enum UserType {
    Admin,
    Accountant,
    Reseller,
    User,
    Partner,
}

impl From<&str> for UserType {
    fn from(name: &str) -> Self {
        match name {
            "admin" => Self::Admin,
            "accountant" => Self::Accountant,
            "reseller" => Self::Reseller,
            "partner" => Self::Partner,
            _ => Self::User,
        }
    }
}

/// One owner's settings.
#[derive(Debug)]
pub struct Settings(HashMap<String, Secret>);

impl Settings {
    /// Whether a switch is on.
    pub fn on(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| number::integer(value) == 1)
    }

    /// How many decimals a "nice" amount has (`data.md`, "Money"): 2 where nothing is set.
    pub fn nice_digits(&self) -> usize {
        self.text("Nice_Number_Digits")
            .map_or(2, |digits| usize::try_from(number::integer(digits)).unwrap_or(0).min(100))
    }

    /// A setting's text, where it isn't empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        debug_assert!(SETTINGS.contains(&name), "{name} is not read from conflines");
        self.0.get(name).map(Secret::reveal).filter(|value| !value.is_empty())
    }
}

/// A currency; `exchange_rate` units of it are worth one of the system's.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's own column names")]
pub struct Currency {
    pub id: i32,
    pub name: String,
    pub exchange_rate: BigDecimal,
    pub active: bool,
}

/// All currencies, with the system's own (id 1) among them (`data.md`, "Currencies").
#[derive(Debug)]
pub struct Currencies(Vec<Currency>);

impl Currencies {
    /// The system's currency. `None` only in a database that lost it.
    pub fn system(&self) -> Option<&Currency> {
        self.by_id(1)
    }

    /// By id.
    pub fn by_id(&self, id: i32) -> Option<&Currency> {
        self.0.iter().find(|currency| currency.id == id)
    }

    /// The currency of a user who has this id as `currency_id`.
    pub fn of_user(&self, currency_id: Option<i32>) -> Option<&Currency> {
        currency_id.and_then(|id| self.by_id(id))
    }

    /// What the amounts are multiplied by that such a user is shown: 1, or by an X7 server the user's own currency's rate
    /// (`x7.md`, "Values printed").
    pub fn shown_rate(&self, currency_id: Option<i32>, dialect: Dialect) -> BigDecimal {
        let own = self.of_user(currency_id).filter(|_| dialect.shows_callers_currency());
        own.map_or(BigDecimal::from(1), |currency| currency.exchange_rate.clone())
    }

    /// By name, in any letter case, trailing spaces ignored.
    pub fn by_name(&self, name: &str) -> Option<&Currency> {
        let name = name.trim_end_matches(' ').to_lowercase();
        self.0.iter().find(|currency| currency.name.to_lowercase() == name)
    }

    /// What one unit of the system's currency is worth in `currency`. 0 where the system's own rate is 0.
    pub fn rate_to(&self, currency: &Currency) -> BigDecimal {
        let one = BigDecimal::from(1);
        match self.system() {
            Some(system) if system.name == currency.name => one,
            Some(system) if system.exchange_rate == 0 => BigDecimal::from(0),
            Some(system) if system.exchange_rate == one => currency.exchange_rate.clone(),
            Some(system) => {
                (&currency.exchange_rate / &system.exchange_rate).with_scale_round(30, RoundingMode::HalfUp)
            }
            None => BigDecimal::from(0),
        }
    }
}

/// The database's word on users, settings and currencies, remembered where it may be.
#[derive(Debug)]
pub struct Directory {
    pool: PgPool,
    cache: Switch,
    memory: Mutex<Memory>,
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
    /// A directory that remembers nothing yet.
    pub fn new(pool: PgPool, cache: Switch) -> Self {
        Self { pool, cache, memory: Mutex::default() }
    }

    /// Whether things are kept in memory.
    pub fn remembers(&self) -> bool {
        self.cache == Switch::On
    }

    /// The user of that name: the lowest id, letter case and trailing spaces aside.
    pub async fn user(&self, name: &str) -> sqlx::Result<Option<Arc<User>>> {
        // As it was sent: what the database folds together is its own business.
        let key = name.to_owned();
        let forgotten = match self.look(|memory| memory.users.get(&key).cloned()) {
            Ok(user) => return Ok(Some(user)),
            Err(forgotten) => forgotten,
        };
        let Some(user) = self.read_user(name).await?.map(Arc::new) else { return Ok(None) };
        self.keep(forgotten, |memory| {
            if memory.users.len() >= MOST_USERS {
                memory.users.clear();
            }
            memory.users.insert(key, user.clone());
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
        let forgotten = match self.look(|memory| memory.settings.get(&owner).cloned()) {
            Ok(settings) => return Ok(settings),
            Err(forgotten) => forgotten,
        };
        let rows = sqlx::query!(
            r#"select distinct on (name) name as "name!", coalesce(value, '') as "value!"
               from conflines where owner_id = $1 and name = any($2) order by name, id"#,
            owner,
            &SETTINGS.map(str::to_owned)
        )
        .fetch_all(&self.pool)
        .await?;
        let settings = Arc::new(Settings(rows.into_iter().map(|row| (row.name, row.value.into())).collect()));
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
        let currencies = Arc::new(Currencies(rows));
        self.keep(forgotten, |memory| memory.currencies = Some(currencies.clone()));
        Ok(currencies)
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
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(CHANNEL).await?;
        self.memory().forget();
        let mut since = Instant::now();
        loop {
            let asked = Instant::now();
            tokio::time::timeout(TRUST, sqlx::query("select 1").execute(&mut listener))
                .await
                .map_err(|_| sqlx::Error::PoolTimedOut)??;
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
            self.settings(0).await?;
            match tokio::time::timeout(SIGN_OF_LIFE, listener.try_recv()).await {
                Err(_) => {}
                Ok(Ok(Some(_))) => self.memory().forget(),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}
