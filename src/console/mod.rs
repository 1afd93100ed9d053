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
pub mod demo;
mod error;
mod form;
mod host;
pub mod pages;
pub mod render;
pub mod router;
pub mod session;
pub mod totp;

use std::sync::{Arc, Mutex};

use minijinja::Environment;
use sqlx::PgPool;
use tokio::sync::Semaphore;

use self::demo::DemoLink;
use self::host::Origin;
use self::render::TemplateError;
use crate::state::AppState;

/// Maximum number of concurrent password checks. Each takes 19 MiB and most of a core for some hundredths of a second.
const CONCURRENT_CHECKS_MAX: usize = 1;

/// What all pages share.
#[derive(Debug)]
pub struct Console {
    /// The server.
    pub app: Arc<AppState>,
    /// The console's own connections.
    pub pool: PgPool,
    templates: Environment<'static>,
    origin: Origin,
    password_checks: Semaphore,
    demo: Mutex<Option<DemoLink>>,
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
            templates: render::load_templates(&app.config.console_templates)?,
            origin: Origin::new(app.config.console_url.as_ref()),
            password_checks: Semaphore::new(CONCURRENT_CHECKS_MAX),
            demo: Mutex::default(),
            app,
        })
    }
}
