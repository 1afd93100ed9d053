//! The address of the server that runs on the local PostgreSQL. It can be another one than that of the settings: the
//! server was started with another `--listen` or environment, or with port 0.

use secrecy::ExposeSecret;

use crate::config::Config;
use crate::managed_postgres::ManagedPostgres;
use crate::server;

/// Replaces the setting `listen` by the address of the running server, unless the operator names one with `--listen`.
/// With `database_url`, the address of a running server is not known.
pub fn with_running_address(config: Config, is_listen_named: bool) -> Config {
    if is_listen_named || !config.database_url.expose_secret().is_empty() {
        return config;
    }
    match ManagedPostgres::published_address(&server::data_dir(&config)) {
        Some(listen) => Config { listen, ..config },
        None => config,
    }
}
