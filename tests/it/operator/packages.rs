//! What operators install it by: the unit, the image, the compose file. `scripts/package` and `scripts/image` try them out.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::harness::process::{create_data_dir, serve_command, start};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The service manager hears of it when requests are answered, and when no more will be.
#[test]
fn it_tells_the_service_manager() {
    let (data, manager) = (create_data_dir(), create_data_dir());
    let path = manager.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    // PostgreSQL could say something, too: nobody is to take that for our word.
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let hear = || {
        let mut words = [0; 64];
        let length = socket.recv(&mut words).unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    };
    let mut command = serve_command(data.path());
    command.env("NOTIFY_SOCKET", &path);
    let running = start(command);
    assert_eq!(hear(), "READY=1\n");
    TcpStream::connect(running.address).unwrap();
    running.stop();
    assert_eq!(hear(), "STOPPING=1\n");
}

/// A unit's lines, by section and key.
fn unit() -> BTreeMap<(String, String), Vec<String>> {
    let mut section = String::new();
    let mut lines = BTreeMap::<_, Vec<String>>::new();
    for line in read("packaging/mortise.service").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name.to_owned(),
            None => {
                let (key, value) = line.split_once('=').unwrap();
                lines.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
            }
        }
    }
    lines
}

#[test]
fn the_unit_waits_for_readiness_and_lets_go_of_powers() {
    let unit = unit();
    let service =
        |key: &str| unit.get(&("Service".into(), key.into())).map(|values| values.join(" ")).unwrap_or_default();
    for (key, value) in [
        ("Type", "notify"),
        ("User", "mortise"),
        // PostgreSQL must outlive the requests.
        ("KillMode", "mixed"),
        ("StateDirectory", "mortise"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("NoNewPrivileges", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("CapabilityBoundingSet", ""),
    ] {
        assert_eq!(service(key), value, "{key}");
        assert!(unit.contains_key(&("Service".into(), key.into())), "{key}");
    }
    assert!(service("SystemCallFilter").starts_with("@system-service"));
    // More connections than the limit would let in are refused at the start.
    assert!(service("LimitNOFILE").parse::<u64>().unwrap() > 2 * 10_000);
    // What the unit names, the package brings.
    let manifest = read("Cargo.toml");
    for file in ["/usr/bin/mortise", "/etc/mortise/mortise.toml"] {
        assert!(service("ExecStart").contains(file) && manifest.contains(&format!("\"{}\"", &file[1..])), "{file}");
    }
    assert_eq!(service("EnvironmentFile"), "-/etc/default/mortise");
    assert!(manifest.contains("\"etc/default/mortise\""));
    assert!(service("StandardOutput").starts_with("append:/var/lib/mortise/"), "the first key isn't for the journal");
}

/// The settings that packages bring are settings.
#[test]
fn the_packages_settings_are_known() {
    let text = read("packaging/mortise.toml");
    let table: toml::Table = text.parse().unwrap();
    let defaults: toml::Table = mortise::config::DEFAULTS.parse().unwrap();
    assert_eq!(table["data_dir"].as_str(), Some("/var/lib/mortise"));
    assert!(table.keys().all(|key| defaults.contains_key(key)), "{table:?}");
    for line in read("packaging/default").lines().filter_map(|line| line.strip_prefix('#')?.split_once('=')) {
        let name = line.0.strip_suffix("_FILE").unwrap_or(line.0);
        let name = name.strip_prefix("MORTISE_").unwrap_or(name).to_lowercase();
        assert!(defaults.contains_key(&name), "{}", line.0);
    }
}

/// The lines of the Dockerfile: instruction and rest.
fn dockerfile() -> Vec<(String, String)> {
    let text = read("Dockerfile");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(word, rest)| (word.to_owned(), rest.to_owned())).collect()
}

#[test]
fn the_image_is_small_plain_and_of_this_rust() {
    let lines = dockerfile();
    let all = |word: &str| lines.iter().filter(|line| line.0 == word).map(|line| line.1.as_str()).collect::<Vec<_>>();
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let rust = manifest["package"]["rust-version"].as_str().unwrap();
    // The two are of one Debian: a program that was built on a newer one wouldn't start.
    assert_eq!(all("FROM"), [&format!("rust:{rust}-slim-bookworm AS build"), "gcr.io/distroless/cc-debian12:nonroot"]);
    assert_eq!(all("RUN"), ["cargo build --release --locked --bin mortise"]);
    let user: u32 = all("USER")[0].split(':').next().unwrap().parse().unwrap();
    assert!(user > 0);
    assert!(all("HEALTHCHECK")[0].ends_with(r#"CMD ["mortise", "healthcheck"]"#));
    assert_eq!((all("ENTRYPOINT"), all("CMD")), (vec![r#"["mortise"]"#], vec![r#"["serve"]"#]));
    assert_eq!(all("ENV"), ["MORTISE_LISTEN=0.0.0.0:3000"]);
    let last_stage = lines.iter().rposition(|line| line.0 == "FROM").unwrap();
    assert!(lines[last_stage..].iter().all(|line| line.0 != "RUN"), "there is no shell in the image");
    for copied in lines[last_stage..].iter().filter(|line| line.0 == "COPY").map(|line| &line.1) {
        let source = copied.strip_prefix("--from=build /src/").unwrap().split(' ').next().unwrap();
        assert!(
            source.starts_with("target/") || Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists(),
            "{source}"
        );
    }
    // What the build needs is sent along.
    let ignored = read(".dockerignore");
    for needed in [".sqlx", ".cargo", "migrations", "config"] {
        assert!(!ignored.lines().any(|line| line == needed), "{needed}");
    }
    assert!(ignored.lines().any(|line| line == "secrets"));
}

/// A compose file, as far as ours goes: a key that isn't here is misspelt, or wants a thought.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compose {
    name: String,
    services: BTreeMap<String, Service>,
    networks: BTreeMap<String, Option<Network>>,
    volumes: BTreeMap<String, Option<()>>,
    secrets: BTreeMap<String, Secret>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    image: String,
    build: Option<String>,
    command: Option<Vec<String>>,
    environment: BTreeMap<String, String>,
    secrets: Vec<String>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
    networks: Vec<String>,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
    user: Option<String>,
    read_only: bool,
    #[serde(default)]
    tmpfs: Vec<String>,
    shm_size: Option<String>,
    cap_drop: Vec<String>,
    security_opt: Vec<String>,
    stop_grace_period: String,
    restart: String,
    healthcheck: Healthcheck,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dependency {
    condition: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Healthcheck {
    test: Vec<String>,
    interval: String,
    timeout: String,
    retries: u32,
    start_period: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    internal: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    file: String,
}

fn compose() -> Compose {
    yaml_serde::from_str(&read("compose.yaml")).unwrap()
}

#[test]
fn compose_names_only_what_it_has() {
    let compose = compose();
    assert_eq!(compose.name, "mortise");
    assert_eq!(compose.services.keys().collect::<Vec<_>>(), ["database", "mortise"]);
    let mut used = (Vec::new(), Vec::new(), Vec::new());
    for (name, service) in &compose.services {
        for secret in &service.secrets {
            assert!(compose.secrets.contains_key(secret), "{name}: {secret}");
            used.0.push(secret);
        }
        for volume in service.volumes.iter().map(|volume| volume.split(':').next().unwrap()) {
            assert!(compose.volumes.contains_key(volume), "{name}: {volume}");
            used.1.push(volume);
        }
        for network in &service.networks {
            assert!(network == "default" || compose.networks.contains_key(network), "{name}: {network}");
            used.2.push(network);
        }
        // A secret that a variable names is one that the service has.
        for file in service.environment.iter().filter(|(name, _)| name.ends_with("_FILE")).map(|(_, file)| file) {
            let secret = file.strip_prefix("/run/secrets/").unwrap().to_owned();
            assert!(service.secrets.contains(&secret), "{name}: {file}");
        }
        assert!(service.depends_on.keys().all(|other| compose.services.contains_key(other)), "{name}");
    }
    assert!(compose.secrets.keys().all(|secret| used.0.contains(&secret)));
    assert!(compose.volumes.keys().all(|volume| used.1.contains(&volume.as_str())));
    assert!(compose.networks.keys().all(|network| used.2.contains(&network)));
    // The secrets are where the command at the head of the file puts them, and stay out of git and the image.
    let text = read("compose.yaml");
    for secret in compose.secrets.values() {
        let path = secret.file.strip_prefix("./").unwrap();
        assert!(text.contains(&format!("> {path}")), "{path}");
    }
    assert!(read(".gitignore").lines().any(|line| line == "/secrets"));
}

#[test]
fn compose_is_healthy_and_shut_in() {
    let compose = compose();
    for (name, service) in &compose.services {
        assert!(service.read_only, "{name}");
        assert_eq!(
            (service.cap_drop.join(" "), service.security_opt.join(" ")),
            ("ALL".into(), "no-new-privileges:true".into())
        );
        assert_eq!(service.restart, "unless-stopped");
        let check = &service.healthcheck;
        assert!(check.test[0] == "CMD" && check.retries > 1, "{name}");
        let seconds = |text: &str| text.trim_end_matches('s').parse::<u32>().unwrap();
        assert!(seconds(&check.timeout) <= seconds(&check.interval) && seconds(&check.start_period) > 0, "{name}");
        let secret = |name: &String| name.contains("PASSWORD") || name.contains("KEY") || name.contains("URL");
        assert!(service.environment.keys().filter(|name| secret(name)).all(|name| name.ends_with("_FILE")), "{name}");
    }
    let (database, mortise) = (&compose.services["database"], &compose.services["mortise"]);
    assert_eq!(database.image, "postgres:17");
    assert_eq!(database.user.as_deref(), Some("postgres"));
    assert_eq!(database.volumes, ["database:/var/lib/postgresql/data"]);
    assert!(database.ports.is_empty() && compose.networks["database"].as_ref().unwrap().internal);
    assert_eq!(database.tmpfs, ["/tmp", "/var/run/postgresql"]);
    assert!(database.shm_size.is_some() && database.stop_grace_period == "1m");
    // As the program sets it for a PostgreSQL of its own: else a refused row stands in the log, PIN included.
    let command = database.command.as_ref().unwrap();
    for quiet in ["log_error_verbosity=terse", "log_min_error_statement=panic"] {
        assert!(command.contains(&quiet.to_owned()), "{quiet}");
    }
    assert_eq!((mortise.image.as_str(), mortise.build.as_deref()), ("mortise", Some(".")));
    assert_eq!(mortise.depends_on["database"].condition, "service_healthy");
    assert_eq!(mortise.healthcheck.test, ["CMD", "mortise", "healthcheck"]);
    assert!(mortise.ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{:?}", mortise.ports);
    assert!(mortise.volumes.is_empty() && mortise.user.is_none() && mortise.command.is_none());
    // What the settings say, in milliseconds.
    let settings: toml::Table = mortise::config::DEFAULTS.parse().unwrap();
    let grace: i64 = mortise.stop_grace_period.trim_end_matches('s').parse().unwrap();
    assert!(grace * 1000 > settings["shutdown_timeout_ms"].as_integer().unwrap());
}
