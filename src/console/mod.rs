//! The console (`console.md`): pages for operators and support agents, on a listener of its own. The pages call the
//! functions of [`back_office`](crate::back_office); no rule exists twice.
//!
//! ```text
//! server::listener         the listener console_listen
//!   │
//! router                   security headers, host, cross-site requests
//!   ├─ /login, /demo, /assets/…
//!   └─ admit               session, second factor, role, for each route of ROUTES
//!        └─ pages/…        one file for each page: read, change, render
//! ```

pub mod access;
pub mod accounts;
mod assets;
mod attempts;
mod chart;
pub mod counted;
pub mod demo;
mod download;
pub mod error;
mod form;
mod host;
pub mod pages;
pub mod render;
pub mod route;
pub mod router;
pub mod second_factor;
pub mod session;
mod submission;
pub mod totp;
pub mod upload;

use std::sync::Arc;

use minijinja::Environment;
use sqlx::PgPool;
use tokio::sync::{Semaphore, SemaphorePermit};

use self::attempts::Attempts;
use self::counted::Counts;
use self::demo::Demo;
use self::error::ConsoleError;
use self::host::Origin;
use self::render::TemplateError;
use crate::locks::KeyedSemaphores;
use crate::state::AppState;

/// Maximum number of uploads at the same time.
const UPLOADS_MAX: usize = 2;

/// What all pages share.
#[derive(Debug)]
pub struct Console {
    /// The server.
    pub app: Arc<AppState>,
    /// The console's own connections.
    pub pool: PgPool,
    /// Results that take long.
    pub counts: Counts,
    /// Files that arrive, or are read: each can fill the disk.
    pub uploads: Arc<Semaphore>,
    /// Cards that are created or imported: each of these changes holds a connection.
    pub bulk_creates: Semaphore,
    /// Comparisons with lists of payment providers: each holds a connection.
    pub comparisons: Semaphore,
    templates: Environment<'static>,
    origin: Origin,
    attempts: Attempts,
    /// By the form's id: the second request of a double click waits for the first.
    forms: KeyedSemaphores<String>,
    demo: Demo,
}

impl Console {
    /// Creates the console of a server.
    ///
    /// # Errors
    ///
    /// If a template of the operator cannot be used.
    pub fn new(app: Arc<AppState>) -> Result<Self, TemplateError> {
        Ok(Self {
            pool: app.pool.console_pool(),
            counts: Counts::new(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            bulk_creates: Semaphore::new(1),
            comparisons: Semaphore::new(1),
            templates: render::load_templates(&app.config.console_templates)?,
            origin: Origin::new(app.config.console_url.as_ref()),
            attempts: Attempts::new(&app.config),
            forms: KeyedSemaphores::new(1),
            demo: Demo::default(),
            app,
        })
    }

    /// Returns the permit for creating or importing cards.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Busy`] if another form has it.
    fn begin_bulk_create(&self) -> Result<SemaphorePermit<'_>, ConsoleError> {
        self.bulk_creates.try_acquire().map_err(|_| {
            ConsoleError::Busy("Other cards are being created or imported. Try again when that is done.".to_owned())
        })
    }

    /// Returns the name of the system's currency, in which balances and prices are stored.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn system_currency(&self) -> sqlx::Result<String> {
        let currencies = self.app.accounts.currencies().await?;
        Ok(currencies.system().map(|currency| currency.name.clone()).unwrap_or_default())
    }
}
