//! Settings: sources and their precedence, defaults, and errors.

use std::path::Path;

use mortise::config::{Config, OnOff, Override};
use mortise::dialect::Dialect;
use secrecy::ExposeSecret;

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
fn defaults_come_from_the_commented_file() {
    let config = load(None, &[], &[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
    assert_eq!((config.prefix.as_str(), config.dialect, config.cache), ("/billing", Dialect::Documented, OnOff::On));
}

#[test]
fn default_connections_depend_on_the_processors() {
    let connections =
        |count| load(None, &[], &[("database_connections", count)]).map(|config| config.database_connections);
    let processors = std::thread::available_parallelism().unwrap().get();
    let default = u32::try_from((8 * processors).clamp(8, 32)).unwrap();
    assert_eq!(load(None, &[], &[]).unwrap().database_connections, default);
    assert_eq!(connections("0"), Ok(default));
    assert_eq!(connections("1000"), Ok(1000));
    assert_eq!(load(None, &[], &[]).unwrap().sale_concurrency, processors.max(2));
    assert!(connections("1001").unwrap_err().ends_with("it must be from 0 to 1000"));
}

#[test]
fn options_override_the_environment_and_the_file() {
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
fn secret_is_read_from_a_file_and_not_shown() {
    let file = file("postgres://mortise:hunter2@db/mortise\n");
    let path = file.path().to_str().unwrap();
    for variable in ["DATABASE_URL_FILE", "MORTISE_DATABASE_URL_FILE"] {
        let config = load(None, &[(variable, path)], &[]).unwrap();
        assert_eq!(config.database_url.expose_secret(), "postgres://mortise:hunter2@db/mortise");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

#[test]
fn invisible_characters_are_refused_without_the_value() {
    let with_mark = file("postgres://u:hunter2@db/mortise\u{200b}\n");
    let path = with_mark.path().to_str().unwrap();
    let (mark, space) = ("\u{feff}postgres://u:hunter2@db/mortise", "postgres://u:hunter2@db/mortise\u{a0}");
    for (variable, value, found) in [
        ("DATABASE_URL", mark, "U+FEFF at position 1"),
        ("DATABASE_URL", space, "U+00A0 at position 32"),
        ("DATABASE_URL_FILE", path, "U+200B at position 32"),
    ] {
        let error = load(None, &[(variable, value)], &[]).unwrap_err();
        let message = format!("the setting database_url (from {variable}) has the invisible character {found}");
        assert_eq!(error, message);
    }
    let error = load(None, &[], &[("prefix", "/bil\u{200d}ling")]).unwrap_err();
    assert_eq!(error, "the setting prefix (from --option) has the invisible character U+200D at position 5");
    // A byte order mark at the start of a settings file, and white space between the parts of a list.
    let marked = file("\u{feff}prefix = \"/x\"\ntrusted_proxies = \"\"\"\n10.0.0.0/8,\n\t192.0.2.1\n\"\"\"\n");
    let config = load(Some(marked.path()), &[], &[]).unwrap();
    assert_eq!((config.prefix.as_str(), config.trusted_proxies.len()), ("/x", 2));
}

#[test]
fn invalid_settings_are_refused_with_their_source() {
    for (environment, message) in [
        (("MORTISE_LISTN", "127.0.0.1:1"), "unknown setting MORTISE_LISTN: config/mortise.toml lists all of them"),
        (
            ("MORTISE_LISTEN", "localhost"),
            "the setting listen (from MORTISE_LISTEN) is invalid: invalid socket address syntax",
        ),
        (
            ("MORTISE_DIALECT", "x8"),
            "the setting dialect (from MORTISE_DIALECT) is invalid: \
             unknown variant `x8`, expected `documented` or `x7`",
        ),
        (
            ("MORTISE_MAX_BODY", "1 MiB"),
            "the setting max_body (from MORTISE_MAX_BODY) must be a whole number, not \"1 MiB\"",
        ),
        (
            ("MORTISE_REQUIRE_PASSWORD", "yes"),
            "the setting require_password (from MORTISE_REQUIRE_PASSWORD) must be true or false, not \"yes\"",
        ),
        (
            ("MORTISE_PREFIX", "billing"),
            "the setting prefix (from MORTISE_PREFIX) is invalid: it must look like /billing",
        ),
        (
            ("MORTISE_PREFIX", "/b{x}"),
            "the setting prefix (from MORTISE_PREFIX) is invalid: it must look like /billing",
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
        assert!(error.starts_with(&format!("the setting {setting} (from {name}) is invalid")), "{error}");
    }
    // A line with a syntax error is not quoted: it may contain a password.
    let invalid = file("prefix = \"/x\"\ndatabase_url = \"postgres://u:hunter2@h/db\n");
    let error = load(Some(invalid.path()), &[], &[]).unwrap_err();
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

#[test]
fn settings_of_the_console_are_checked() {
    let config = load(None, &[], &[]).unwrap();
    assert!(config.console_listen.is_none() && config.console_url.is_none());
    assert_eq!(config.console_support_max.to_string(), "50");
    assert!(config.console_templates.as_os_str().is_empty());
    let set = |name: &str, value: &str| load(None, &[(&format!("MORTISE_CONSOLE_{name}"), value)], &[]);
    assert_eq!(set("LISTEN", "[::1]:3001").unwrap().console_listen.unwrap().port(), 3001);
    for url in ["https://console.example.com", " https://console.example.com:8443/ ", "https://[2001:db8::1]"] {
        assert!(set("URL", url).unwrap().console_url.is_some(), "{url}");
    }
    assert!(set("URL", " ").unwrap().console_url.is_none());
    for url in [
        "http://console.example.com",
        "console.example.com",
        "https://console.example.com/mortise",
        "https://console.example.com/?a=b",
        "https://ann:secret@console.example.com",
        "https://",
    ] {
        let error = set("URL", url).unwrap_err();
        let message = "is invalid: it must look like https://console.example.com, without a path";
        assert!(error.ends_with(message), "{url}: {error}");
    }
    assert_eq!(set("SUPPORT_MAX", "12.50").unwrap().console_support_max.to_string(), "12.50");
    assert_eq!(set("SUPPORT_MAX", "0").unwrap().console_support_max.to_string(), "0");
    for amount in ["-1", "fifty", "", "NaN"] {
        let error = set("SUPPORT_MAX", amount).unwrap_err();
        assert!(error.ends_with("it must be a number, such as \"50\" or \"12.50\""), "{amount}: {error}");
    }
    assert!(set("LISTEN", "3001").unwrap_err().ends_with("it must look like 127.0.0.1:9464"));
}

/// `mortise config` hides the settings in `SECRET_SETTINGS`.
#[test]
fn secret_settings_are_complete() {
    let source = include_str!("../../../src/config/mod.rs");
    let fields = source.split("pub struct Config {").nth(1).unwrap().split("\n}").next().unwrap();
    let secret = fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(": SecretString,"));
    assert_eq!(secret.collect::<Vec<_>>(), mortise::config::SECRET_SETTINGS);
}
