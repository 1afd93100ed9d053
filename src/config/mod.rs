//! Settings: defaults from `config/mortise.toml`, then the settings file, the environment and the command line.

mod layers;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::Uri;
use axum::http::uri::Scheme;
use bigdecimal::BigDecimal;
use clap::ValueEnum;
use ipnet::IpNet;
use secrecy::SecretString;
use serde::Deserialize;
use tracing_subscriber::filter::{LevelFilter, Targets};

pub use self::layers::{EffectiveSetting, Layers, Override, ShownSetting};
use crate::dialect::Dialect;
use crate::number;

/// The commented file of defaults, which is shipped with the program. Defaults are defined only there.
pub const DEFAULTS: &str = include_str!("../../config/mortise.toml");

/// Settings whose values are never printed or logged.
pub const SECRET_SETTINGS: [&str; 1] = ["database_url"];

/// The value for "no limit": the largest number of permits of a semaphore.
pub const UNLIMITED: usize = tokio::sync::Semaphore::MAX_PERMITS;

/// All settings, checked. `config/mortise.toml` documents them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/mortise.toml documents each setting")]
pub struct Config {
    pub listen: SocketAddr,
    #[serde(deserialize_with = "optional_addr")]
    pub metrics_listen: Option<SocketAddr>,
    #[serde(deserialize_with = "optional_addr")]
    pub console_listen: Option<SocketAddr>,
    #[serde(deserialize_with = "console_url")]
    pub console_url: Option<Uri>,
    #[serde(deserialize_with = "amount")]
    pub console_support_max: BigDecimal,
    pub console_templates: PathBuf,
    #[serde(deserialize_with = "otlp_endpoint")]
    pub otlp_endpoint: Option<Uri>,
    #[serde(deserialize_with = "prefix")]
    pub prefix: String,
    pub dialect: Dialect,
    pub database_url: SecretString,
    pub data_dir: PathBuf,
    pub migrate: OnOff,
    #[serde(deserialize_with = "database_connections")]
    pub database_connections: u32,
    #[serde(deserialize_with = "sale_concurrency")]
    pub sale_concurrency: usize,
    #[serde(rename = "database_acquire_timeout_ms", deserialize_with = "milliseconds")]
    pub database_acquire_timeout: Duration,
    pub cache: OnOff,
    pub require_password: bool,
    pub legacy_hashes: bool,
    pub failed_attempts_max: u32,
    #[serde(rename = "lockout_s")]
    pub lockout: NonZero<u32>,
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    pub match_partial_callerids: bool,
    pub max_body: NonZero<usize>,
    pub max_import_body: NonZero<usize>,
    pub max_import_rates: NonZero<usize>,
    pub import_concurrency: NonZero<u16>,
    pub temp_dir: PathBuf,
    pub max_parameters: NonZero<usize>,
    pub max_headers: NonZero<usize>,
    pub max_header_bytes: NonZero<usize>,
    #[serde(deserialize_with = "limit")]
    pub max_connections: usize,
    #[serde(deserialize_with = "limit")]
    pub max_requests: usize,
    #[serde(deserialize_with = "limit")]
    pub max_body_memory: usize,
    #[serde(rename = "header_timeout_ms", deserialize_with = "timeout")]
    pub header_timeout: Duration,
    #[serde(rename = "keep_alive_timeout_ms", deserialize_with = "timeout")]
    pub keep_alive_timeout: Duration,
    #[serde(rename = "body_timeout_ms", deserialize_with = "timeout")]
    pub body_timeout: Duration,
    #[serde(rename = "write_timeout_ms", deserialize_with = "timeout")]
    pub write_timeout: Duration,
    #[serde(rename = "stream_timeout_ms", deserialize_with = "stream_timeout")]
    pub stream_timeout: Duration,
    pub max_quantity: NonZero<u32>,
    pub max_new_cards: NonZero<u32>,
    #[serde(deserialize_with = "idempotency_hours")]
    pub idempotency_hours: NonZero<u32>,
    pub payment_ref_unique: bool,
    #[serde(rename = "idempotency_wait_ms", deserialize_with = "milliseconds")]
    pub idempotency_wait: Duration,
    #[serde(deserialize_with = "audit_retention_days")]
    pub audit_retention_days: u32,
    pub mail_tls: MailTls,
    pub mail_ca: PathBuf,
    pub mail_templates: PathBuf,
    #[serde(rename = "mail_wait_ms", deserialize_with = "mail_timeout")]
    pub mail_timeout: Duration,
    pub mail_hours: NonZero<u32>,
    pub mail_retention_days: NonZero<u32>,
    #[serde(rename = "shutdown_timeout_ms", deserialize_with = "milliseconds")]
    pub shutdown_timeout: Duration,
    #[serde(deserialize_with = "log")]
    pub log: Targets,
    pub log_format: LogFormat,
    /// All settings as `mortise config` prints them, in the order of their names. No setting itself.
    #[serde(skip)]
    pub in_effect: Vec<ShownSetting>,
}

/// A setting that is `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum OnOff {
    On,
    Off,
}

/// When a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config/mortise.toml documents the values")]
pub enum MailTls {
    Required,
    Wanted,
    Off,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "config/mortise.toml documents the values")]
pub enum LogFormat {
    Auto,
    Human,
    Json,
}

/// An invalid setting or settings file, with which the server does not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Malformed { path: PathBuf, message: String },
    #[error("unknown setting {0}: config/mortise.toml lists all of them")]
    Unknown(String),
    #[error("the setting {name} (from {origin}) {problem}")]
    Invalid { name: String, origin: String, problem: String },
}

impl Config {
    /// Reads all layers ([`Layers::read`]) and checks the settings.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        options: &[Override],
    ) -> Result<Self, ConfigError> {
        Layers::read(file, environment, options)?.config()
    }
}

/// Reads an address and port; an empty text means none.
fn optional_addr<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(value)?;
    let address = |text: &str| text.parse().map_err(|_| serde::de::Error::custom("it must look like 127.0.0.1:9464"));
    Some(text.trim()).filter(|text| !text.is_empty()).map(address).transpose()
}

/// Reads the origin of the console, without a path; an empty text means none.
fn console_url<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Uri>, D::Error> {
    let text = String::deserialize(value)?;
    let is_origin = |uri: &Uri| {
        let has_host = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        uri.scheme() == Some(&Scheme::HTTPS) && has_host && uri.path() == "/" && uri.query().is_none()
    };
    match text.trim() {
        "" => Ok(None),
        url => {
            url.parse().ok().filter(is_origin).map(Some).ok_or_else(|| {
                serde::de::Error::custom("it must look like https://console.example.com, without a path")
            })
        }
    }
}

/// Reads an amount of money of 0 or more.
fn amount<'de, D: serde::Deserializer<'de>>(value: D) -> Result<BigDecimal, D::Error> {
    let text = String::deserialize(value)?;
    let amount = number::parse_whole_decimal(text.trim()).filter(|amount| *amount >= 0);
    amount.ok_or_else(|| serde::de::Error::custom("it must be a number, such as \"50\" or \"12.50\""))
}

/// Reads a URL; an empty text means none. A program without the feature `otlp` refuses a URL, as it would send no
/// traces.
fn otlp_endpoint<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Uri>, D::Error> {
    let text = String::deserialize(value)?;
    // A user and a password are refused: this setting is not hidden.
    let no_userinfo = |uri: &Uri| uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    let is_valid = |uri: &Uri| uri.scheme() == Some(&Scheme::HTTP) && uri.query().is_none() && no_userinfo(uri);
    match text.trim() {
        "" => Ok(None),
        _ if !cfg!(feature = "otlp") => {
            Err(serde::de::Error::custom("this program was built without the feature otlp"))
        }
        url => url
            .parse()
            .ok()
            .filter(is_valid)
            .map(Some)
            .ok_or_else(|| serde::de::Error::custom("it must look like http://127.0.0.1:4318, without TLS")),
    }
}

fn milliseconds<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u64::deserialize(value).map(Duration::from_millis)
}

/// Reads 100 ms to 10 minutes. The claim on an e-mail lasts several times this timeout, and must not block the e-mail
/// for hours.
fn mail_timeout<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    match milliseconds(value)? {
        timeout if (Duration::from_millis(100)..=Duration::from_mins(10)).contains(&timeout) => Ok(timeout),
        _ => Err(serde::de::Error::custom("it must be from 100 to 600000")),
    }
}

/// Reads a timeout in milliseconds. 0 means no timeout: 30 years, which can still be added to the current time.
fn timeout<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    const TIMEOUT_MAX: Duration = Duration::from_hours(24 * 365 * 30);
    let timeout = milliseconds(value)?;
    Ok(if timeout.is_zero() { TIMEOUT_MAX } else { timeout.min(TIMEOUT_MAX) })
}

/// Reads one second to one day. A snapshot that is open for longer stops the vacuum of all tables.
fn stream_timeout<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    match milliseconds(value)? {
        timeout if (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&timeout) => Ok(timeout),
        _ => Err(serde::de::Error::custom("it must be from 1000 to 86400000")),
    }
}

/// Reads a limit. 0 means no limit.
fn limit<'de, D: serde::Deserializer<'de>>(value: D) -> Result<usize, D::Error> {
    let limit = usize::deserialize(value)?;
    Ok(if limit == 0 { UNLIMITED } else { limit.min(UNLIMITED) })
}

fn database_connections<'de, D: serde::Deserializer<'de>>(value: D) -> Result<u32, D::Error> {
    match u32::deserialize(value)? {
        0 => Ok(default_database_connections()),
        connections @ 1..=1000 => Ok(connections),
        _ => Err(serde::de::Error::custom("it must be from 0 to 1000")),
    }
}

/// Returns eight per processor, 8 to 32: enough to keep the processors busy while some statements wait for the disk.
/// More would only compete for the processors.
fn default_database_connections() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(8).clamp(8, 32)
}

/// Reads a number of statements. 0 means one per processor, at least 2: while one statement waits for the disk, the
/// other one runs.
fn sale_concurrency<'de, D: serde::Deserializer<'de>>(value: D) -> Result<usize, D::Error> {
    Ok(match usize::deserialize(value)? {
        0 => std::thread::available_parallelism().map_or(2, NonZero::get).max(2),
        statements => statements,
    })
}

/// Reads at most ten years: an interval of some thousand years exceeds the range of PostgreSQL's timestamps.
fn idempotency_hours<'de, D: serde::Deserializer<'de>>(value: D) -> Result<NonZero<u32>, D::Error> {
    const HOURS_MAX: u32 = 24 * 365 * 10;
    let hours = NonZero::<u32>::deserialize(value)?;
    if hours.get() <= HOURS_MAX {
        Ok(hours)
    } else {
        Err(serde::de::Error::custom(format!("it must be at most {HOURS_MAX}")))
    }
}

/// Reads at most a hundred years, for the same reason. 0 means that all rows are kept.
fn audit_retention_days<'de, D: serde::Deserializer<'de>>(value: D) -> Result<u32, D::Error> {
    match u32::deserialize(value)? {
        days @ 0..=36_500 => Ok(days),
        _ => Err(serde::de::Error::custom("it must be from 0 to 36500")),
    }
}

/// Reads a comma-separated list of addresses and networks.
fn networks<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Vec<IpNet>, D::Error> {
    let text = String::deserialize(value)?;
    let network =
        |part: &str| part.parse::<IpAddr>().map(|address| address.to_canonical().into()).or(part.parse()).ok();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let networks: Option<Vec<IpNet>> = parts.map(network).collect();
    networks.ok_or_else(|| serde::de::Error::custom("it must look like 10.0.0.0/8, 192.0.2.1, fd00::/8"))
}

/// Reads levels, and modules with levels. [`Targets`] would accept any other word as a module whose lines are all
/// logged.
fn log<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Targets, D::Error> {
    let text = String::deserialize(value)?;
    let is_level = |word: &str| word.trim().parse::<LevelFilter>().is_ok();
    let has_levels = text.split(',').all(|part| is_level(part.split_once('=').map_or(part, |(_, level)| level)));
    match text.parse() {
        Ok(targets) if has_levels => Ok(targets),
        _ => Err(serde::de::Error::custom("it must look like info,sqlx=warn")),
    }
}

/// Reads a URL path and removes slashes at its end; an empty text means none.
fn prefix<'de, D: serde::Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    let text = String::deserialize(value)?;
    let prefix = text.trim_end_matches('/');
    let is_plain = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
    if !is_plain || !(prefix.is_empty() || prefix.starts_with('/')) {
        return Err(serde::de::Error::custom("it must look like /billing"));
    }
    Ok(prefix.to_owned())
}
