//! Settings: where they come from, what goes first, what stops a start.

use std::path::Path;

use mortise::config::{Config, OnOff, Override};
use mortise::dialect::Dialect;

fn load(file: Option<&Path>, environment: &[(&str, &str)], options: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options: Vec<_> = options.iter().map(|(name, value)| Override::new(name, value, "--option")).collect();
    Config::load(file, environment, &options).map_err(|error| error.to_string())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_defaults_are_those_of_the_commented_file() {
    let config = load(None, &[], &[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
    assert_eq!((config.prefix.as_str(), config.dialect, config.cache), ("/billing", Dialect::Documented, OnOff::On));
}

#[test]
fn unless_they_are_counted_database_connections_fit_the_processors() {
    let connections =
        |count| load(None, &[], &[("database_connections", count)]).map(|config| config.database_connections);
    let processors = std::thread::available_parallelism().unwrap().get();
    let fitting = u32::try_from((8 * processors).clamp(8, 32)).unwrap();
    assert_eq!(load(None, &[], &[]).unwrap().database_connections, fitting);
    assert_eq!(connections("0"), Ok(fitting));
    assert_eq!(connections("1000"), Ok(1000));
    assert_eq!(load(None, &[], &[]).unwrap().sale_concurrency, processors.max(2));
    assert!(connections("1001").unwrap_err().ends_with("it must be from 0 to 1000"));
}

#[test]
fn options_go_before_the_environment_and_that_before_the_file() {
    let file = file("listen = \"127.0.0.1:1\"\nprefix = \"/file\"\nmax_quantity = 7\n");
    let environment = [
        ("MORTISE_LISTEN", "127.0.0.1:2"),
        ("MORTISE_PREFIX", "/env"),
        ("MORTISE_REQUIRE_PASSWORD", "true"),
        ("HOME", "/x"),
    ];
    let config = load(Some(file.path()), &environment, &[("listen", "127.0.0.1:3")]).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.prefix, "/env");
    assert_eq!(config.max_quantity.get(), 7);
    assert!(config.require_password);
}

#[test]
fn a_secret_can_come_from_a_file_and_never_shows() {
    let file = file("postgres://mortise:hunter2@db/mortise\n");
    let path = file.path().to_str().unwrap();
    for variable in ["DATABASE_URL_FILE", "MORTISE_DATABASE_URL_FILE"] {
        let config = load(None, &[(variable, path)], &[]).unwrap();
        assert_eq!(config.database_url.reveal(), "postgres://mortise:hunter2@db/mortise");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

#[test]
fn what_makes_no_sense_stops_the_start_and_says_where_it_stands() {
    for (environment, message) in [
        (("MORTISE_LISTN", "127.0.0.1:1"), "unknown setting MORTISE_LISTN: config/mortise.toml lists all of them"),
        (
            ("MORTISE_LISTEN", "localhost"),
            "the setting listen (from MORTISE_LISTEN) doesn't fit: invalid socket address syntax",
        ),
        (
            ("MORTISE_DIALECT", "x8"),
            "the setting dialect (from MORTISE_DIALECT) doesn't fit: unknown variant `x8`, expected `documented` or `x7`",
        ),
        (
            ("MORTISE_MAX_BODY", "1 MiB"),
            "the setting max_body (from MORTISE_MAX_BODY) wants a whole number, not \"1 MiB\"",
        ),
        (
            ("MORTISE_REQUIRE_PASSWORD", "yes"),
            "the setting require_password (from MORTISE_REQUIRE_PASSWORD) wants true or false, not \"yes\"",
        ),
        (
            ("MORTISE_PREFIX", "billing"),
            "the setting prefix (from MORTISE_PREFIX) doesn't fit: it must look like /billing",
        ),
        (
            ("MORTISE_PREFIX", "/b{x}"),
            "the setting prefix (from MORTISE_PREFIX) doesn't fit: it must look like /billing",
        ),
    ] {
        assert_eq!(load(None, &[environment], &[]).unwrap_err(), message);
    }
    for (name, value) in [
        ("MORTISE_DATABASE_CONNECTIONS", "1001"),
        ("MORTISE_DATABASE_CONNECTIONS", "3000000000"),
        ("MORTISE_MAX_BODY", "0"),
        ("MORTISE_MAX_PARAMETERS", "0"),
        ("MORTISE_MAX_QUANTITY", "0"),
        ("MORTISE_LOCKOUT_S", "0"),
        ("MORTISE_IDEMPOTENCY_HOURS", "0"),
        ("MORTISE_IDEMPOTENCY_HOURS", "87601"),
        ("MORTISE_METRICS_LISTEN", "9464"),
        ("MORTISE_TRUSTED_PROXIES", "localhost"),
        ("MORTISE_TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.0/33"),
        ("MORTISE_LOG", "inf"),
        ("MORTISE_LOG", "info,sqlx=loud"),
    ] {
        let error = load(None, &[(name, value)], &[]).unwrap_err();
        let setting = name.strip_prefix("MORTISE_").unwrap().to_lowercase();
        assert!(error.starts_with(&format!("the setting {setting} (from {name}) doesn't fit")), "{error}");
    }
    // A line that can't be read may hold a password.
    let broken = file("prefix = \"/x\"\ndatabase_url = \"postgres://u:hunter2@h/db\n");
    let error = load(Some(broken.path()), &[], &[]).unwrap_err();
    assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    for (text, message) in
        [("colour = 1", "unknown setting colour"), ("listen = 1", "the setting listen"), ("listen = ", "line 1: ")]
    {
        let file = file(text);
        let error = load(Some(file.path()), &[], &[]).unwrap_err();
        assert!(error.contains(message) && error.contains(file.path().to_str().unwrap()), "{error}");
    }
    assert!(load(Some(Path::new("/nowhere.toml")), &[], &[]).unwrap_err().starts_with("cannot read /nowhere.toml"));
}

/// What no log shows isn't printed by `mortise config` either.
#[test]
fn every_secret_setting_is_known_to_be_one() {
    let source = include_str!("../../../src/config/mod.rs");
    let fields = source.split("pub struct Config {").nth(1).unwrap().split("\n}").next().unwrap();
    let secret = fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(": Secret,"));
    assert_eq!(secret.collect::<Vec<_>>(), mortise::config::SECRET_SETTINGS);
}
