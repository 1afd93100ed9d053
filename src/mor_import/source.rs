//! The connection to MOR's database: MySQL 5.5 to 8, or MariaDB.
//!
//! All queries use MySQL's text protocol, in which every value is its text: a zero date, a `bit` or an unsigned number
//! cannot fail in the driver. The session has the character set utf8mb4 and the time zone +00:00.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlRow, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Decode, MySql, MySqlConnection, Row, ValueRef};
use tokio::time::timeout;

const PORT: u16 = 3306;
/// How long a connection may take, with TLS and the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long MySQL may be silent: before it sends the first row of a large table it can compute for minutes.
const SILENCE_MAX: Duration = Duration::from_hours(1);
/// Access denied, for this user and password.
const ER_ACCESS_DENIED: u16 = 1045;
const ER_ACCESS_DENIED_NO_PASSWORD: u16 = 1698;
const ER_DATABASE_ACCESS_DENIED: u16 = 1044;
const ER_BAD_DATABASE: u16 = 1049;
const ER_HOST_NOT_PRIVILEGED: u16 = 1130;
const ER_TABLE_ACCESS_DENIED: u16 = 1142;
const ER_COLUMN_ACCESS_DENIED: u16 = 1143;
const ER_SECURE_TRANSPORT_REQUIRED: u16 = 3159;
const ER_NOT_SUPPORTED_AUTH_MODE: u16 = 1251;

/// The reason for which MOR's database cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum SourceError {
    #[error("expected mysql://USER@HOST[:PORT]/DATABASE")]
    InvalidUrl,
    #[error(
        "a password in the URL can be read by every user of this machine: leave it out, and type it, send it on standard \
         input, or use --password-file"
    )]
    PasswordInUrl,
    #[error(
        "MySQL refuses the user {user:?} with this password: check both, and that the account may connect from here; if the \
         account requires TLS, use --tls required ({error})"
    )]
    AccessDenied { user: String, error: String },
    #[error("MySQL does not let this machine connect: create the account for this host ({0})")]
    HostRefused(String),
    #[error(
        "the user {user:?} cannot use the database {database:?}: check its name, and grant the user SELECT on it ({error})"
    )]
    NoDatabase { user: String, database: String, error: String },
    #[error("the user may not read a table: grant SELECT on all tables of the database ({0})")]
    NotGranted(String),
    #[error("MySQL requires TLS for this account: use --tls required")]
    TlsRequired,
    #[error(
        "MySQL does not offer TLS: enable it there; or, on a network that you trust, use --tls preferred or --tls off, and an \
         account that does not require TLS"
    )]
    NoTls,
    #[error(
        "the TLS connection to MySQL failed: check --tls-ca and the host name in the certificate, or use --tls preferred ({0})"
    )]
    Tls(String),
    #[error(
        "the MySQL account uses the authentication plugin {plugin}, which Mortise does not support: create an account for \
         the import with mysql_native_password or caching_sha2_password, and grant it SELECT"
    )]
    AuthenticationPlugin { plugin: String },
    #[error(
        "the account's plugin sends the password only over TLS: use --tls required, or an account with mysql_native_password"
    )]
    PasswordNeedsTls,
    #[error("cannot reach MySQL at {address}: {error}")]
    Unreachable { address: String, error: std::io::Error },
    #[error("the connection to MySQL was lost, nothing was changed: start the import again ({0})")]
    Lost(String),
    #[error("MySQL: {0}")]
    Query(String),
}

/// Whether the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tls {
    /// Never without TLS
    Required,
    /// With TLS if the server offers it
    Preferred,
    /// Never with TLS
    Off,
}

/// Where MOR's database is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct SourceAddress {
    pub user: String,
    pub host: String,
    pub port: u16,
    pub database: String,
}

impl SourceAddress {
    /// Parses `mysql://USER@HOST[:PORT]/DATABASE`.
    ///
    /// # Errors
    ///
    /// If the URL has another form, or a password.
    pub fn parse(url: &str) -> Result<Self, SourceError> {
        let rest = url.strip_prefix("mysql://").ok_or(SourceError::InvalidUrl)?;
        let (user, rest) = rest.rsplit_once('@').ok_or(SourceError::InvalidUrl)?;
        if user.contains(':') {
            return Err(SourceError::PasswordInUrl);
        }
        let (server, database) = rest.split_once('/').ok_or(SourceError::InvalidUrl)?;
        let (host, port) = match server.strip_prefix('[') {
            Some(address) => {
                let (host, port) = address.split_once(']').ok_or(SourceError::InvalidUrl)?;
                (host, port.strip_prefix(':'))
            }
            None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(PORT), str::parse).map_err(|_| SourceError::InvalidUrl)?;
        let decode = |text: &str| {
            let text = percent_decode_str(text).decode_utf8().ok().filter(|text| !text.is_empty());
            text.map(|text| text.into_owned()).ok_or(SourceError::InvalidUrl)
        };
        if database.contains(['/', '?', '#']) {
            return Err(SourceError::InvalidUrl);
        }
        Ok(Self { user: decode(user)?, host: decode(host)?, port, database: decode(database)? })
    }
}

impl std::fmt::Display for SourceAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

/// How to connect.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct SourceOptions {
    pub address: SourceAddress,
    pub password: SecretString,
    pub tls: Tls,
    /// Certificates that the server's certificate must be signed by. Without it, the certificate is not checked.
    pub tls_ca: Option<PathBuf>,
}

/// A connection to MOR's database.
#[derive(Debug)]
pub struct Source {
    connection: MySqlConnection,
    address: SourceAddress,
}

impl Source {
    /// Connects, and prepares the session: no limit of time, and exact statistics where the server has them.
    pub async fn connect(options: &SourceOptions) -> Result<Self, SourceError> {
        let SourceOptions { address, password, tls, tls_ca } = options;
        let mode = match (tls, tls_ca) {
            (Tls::Off, _) => MySqlSslMode::Disabled,
            (Tls::Preferred, None) => MySqlSslMode::Preferred,
            (Tls::Required, None) => MySqlSslMode::Required,
            (Tls::Preferred | Tls::Required, Some(_)) => MySqlSslMode::VerifyIdentity,
        };
        let mut connect_options = MySqlConnectOptions::new()
            .host(&address.host)
            .port(address.port)
            .username(&address.user)
            .password(password.expose_secret())
            .database(&address.database)
            .ssl_mode(mode)
            .disable_statement_logging();
        if let Some(file) = tls_ca {
            connect_options = connect_options.ssl_ca(file);
        }
        let connection = timeout(CONNECT_TIMEOUT, connect_options.connect()).await;
        let connection = connection.unwrap_or_else(|_| Err(std::io::Error::from(ErrorKind::TimedOut).into()));
        let connection = connection.map_err(|error| map_error(error, address, true))?;
        let mut source = Self { connection, address: address.clone() };
        source.execute("set session wait_timeout = 604800, net_write_timeout = 3600, net_read_timeout = 3600").await?;
        // Each server knows only some of these.
        for setting in ["max_statement_time = 0", "max_execution_time = 0", "information_schema_stats_expiry = 0"] {
            let _ = source.execute(&format!("set session {setting}")).await;
        }
        Ok(source)
    }

    /// Begins the transaction in which all tables are read as they are now.
    pub async fn begin_snapshot(&mut self) -> Result<(), SourceError> {
        self.execute("set session transaction isolation level repeatable read").await?;
        self.execute("start transaction with consistent snapshot").await
    }

    /// Closes the connection.
    pub async fn close(self) {
        let _ = self.connection.close().await;
    }

    /// Executes a statement without a result.
    pub async fn execute(&mut self, sql: &str) -> Result<(), SourceError> {
        self.rows(sql).await.map(|_| ())
    }

    /// Returns all rows of a small result as text.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, SourceError> {
        let mut rows = self.stream(sql);
        let mut result = Vec::new();
        while let Some(row) = rows.try_next().await? {
            result.push((0..row.len()).map(|index| row.text(index)).collect::<Result<_, _>>()?);
        }
        Ok(result)
    }

    /// Returns the only row of a result.
    pub async fn row(&mut self, sql: &str) -> Result<Vec<Option<String>>, SourceError> {
        let mut rows = self.rows(sql).await?;
        rows.pop().ok_or_else(|| SourceError::Query("a result has no row".to_owned()))
    }

    /// Streams the rows of a result.
    pub fn stream(&mut self, sql: &str) -> BoxStream<'_, Result<SourceRow, SourceError>> {
        let address = &self.address;
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch(&mut self.connection);
        let rows = stream::unfold(rows, async |mut rows| {
            let row = timeout(SILENCE_MAX, rows.next()).await;
            let row = row.unwrap_or_else(|_| Some(Err(std::io::Error::from(ErrorKind::TimedOut).into())))?;
            Some((row, rows))
        });
        rows.map(move |row| row.map(SourceRow).map_err(|error| map_error(error, address, false))).boxed()
    }
}

/// A row of a result.
#[derive(Debug)]
pub struct SourceRow(MySqlRow);

impl SourceRow {
    /// Returns the number of columns.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the row has no columns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text of a value; `None` for NULL.
    pub fn bytes(&self, index: usize) -> Result<Option<&[u8]>, SourceError> {
        let value = self.0.try_get_raw(index).map_err(|error| SourceError::Query(error.to_string()))?;
        if value.is_null() {
            return Ok(None);
        }
        <&[u8] as Decode<MySql>>::decode(value).map(Some).map_err(|error| SourceError::Query(error.to_string()))
    }

    fn text(&self, index: usize) -> Result<Option<String>, SourceError> {
        Ok(self.bytes(index)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }
}

/// Quotes the name of a table or column.
pub fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Says what to do about an error of the driver.
fn map_error(error: sqlx::Error, address: &SourceAddress, is_connecting: bool) -> SourceError {
    match error {
        sqlx::Error::Database(error) => {
            let text = error.message().to_owned();
            let user = address.user.clone();
            match error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number) {
                Some(ER_ACCESS_DENIED | ER_ACCESS_DENIED_NO_PASSWORD) => {
                    SourceError::AccessDenied { user, error: text }
                }
                Some(ER_DATABASE_ACCESS_DENIED | ER_BAD_DATABASE) => {
                    SourceError::NoDatabase { user, database: address.database.clone(), error: text }
                }
                Some(ER_HOST_NOT_PRIVILEGED) => SourceError::HostRefused(text),
                Some(ER_TABLE_ACCESS_DENIED | ER_COLUMN_ACCESS_DENIED) => SourceError::NotGranted(text),
                Some(ER_SECURE_TRANSPORT_REQUIRED) => SourceError::TlsRequired,
                Some(ER_NOT_SUPPORTED_AUTH_MODE) => SourceError::AuthenticationPlugin { plugin: text },
                // The server ends the connection: shutdown, killed by an administrator.
                Some(1053 | 1152 | 1317 | 1927 | 4031) => SourceError::Lost(text),
                _ => SourceError::Query(text),
            }
        }
        sqlx::Error::Protocol(text) => match text.split_once("unknown authentication plugin: ") {
            Some((_, plugin)) => {
                SourceError::AuthenticationPlugin { plugin: plugin.split(' ').next().unwrap_or_default().to_owned() }
            }
            None if text.contains("cleartext") => SourceError::PasswordNeedsTls,
            None if text.contains("rsa") || text.contains("RSA") => SourceError::PasswordNeedsTls,
            None => SourceError::Query(text),
        },
        sqlx::Error::Tls(error) if error.to_string().contains("does not support TLS") => SourceError::NoTls,
        sqlx::Error::Tls(error) => SourceError::Tls(error.to_string()),
        // A refused certificate, or another failure of the handshake.
        sqlx::Error::Io(error) if is_connecting && error.kind() == ErrorKind::InvalidData => {
            SourceError::Tls(error.to_string())
        }
        sqlx::Error::Io(error) if is_connecting => {
            SourceError::Unreachable { address: format!("{}:{}", address.host, address.port), error }
        }
        sqlx::Error::Io(error) => SourceError::Lost(error.to_string()),
        error => SourceError::Query(error.to_string()),
    }
}
