//! The address of the server that runs on the database. It can be another one than that of the settings: the server was
//! started with another `--listen` or environment, or with port 0.

use secrecy::ExposeSecret;

use crate::config::Config;
use crate::db;
use crate::managed_postgres::address::PublishedAddress;
use crate::server;

/// Replaces the setting `listen` by the address of the server that runs on the same database and data directory, unless
/// the operator names one with `--listen`.
pub fn with_running_address(config: Config, is_listen_named: bool) -> Config {
    if is_listen_named {
        return config;
    }
    let url = config.database_url.expose_secret();
    let database = match url.is_empty() {
        true => None,
        false => match db::parse_url(url) {
            Ok(options) => Some(options),
            Err(_) => return config,
        },
    };
    match PublishedAddress::find(&server::data_dir(&config), database.as_ref()) {
        Some(listen) => Config { listen, ..config },
        None => config,
    }
}
