//! What every request shares.

use sqlx::PgPool;

use crate::audit::Audit;
use crate::config::Config;
use crate::directory::Directory;
use crate::passwords::Passwords;
use crate::turns::Turns;

/// The server's parts, made once at the start.
#[derive(Debug)]
#[expect(missing_docs, reason = "each part's type says what it is")]
pub struct App {
    pub config: Config,
    pub pool: PgPool,
    pub directory: Directory,
    pub passwords: Passwords,
    pub audit: Audit,
    pub turns: Turns,
}
