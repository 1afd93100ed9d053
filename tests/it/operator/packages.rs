//! The systemd unit, the image and the compose file. `scripts/package` and `scripts/image` test them on a real system.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::harness::process::{create_data_dir, serve_command, start};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The server notifies the service manager when it is ready, and when it stops.
#[test]
fn service_manager_is_notified() {
    let (data, manager) = (create_data_dir(), create_data_dir());
    let path = manager.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    // PostgreSQL's OS user may also write to the socket: if PostgreSQL sent a notification, the test would receive it.
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let receive = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut command = serve_command(data.path());
    command.env("NOTIFY_SOCKET", &path);
    let server = start(command);
    assert_eq!(receive(), "READY=1\n");
    TcpStream::connect(server.address).unwrap();
    server.stop();
    assert_eq!(receive(), "STOPPING=1\n");
}

/// The values in the unit file, by section and key.
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
fn unit_waits_for_readiness_and_drops_privileges() {
    let unit = unit();
    let service =
        |key: &str| unit.get(&("Service".into(), key.into())).map(|values| values.join(" ")).unwrap_or_default();
    for (key, value) in [
        ("Type", "notify"),
        ("User", "mortise"),
        // Only the server gets SIGTERM: PostgreSQL must run until the last request is completed.
        ("KillMode", "mixed"),
        ("StateDirectory", "mortise"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("NoNewPrivileges", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("CapabilityBoundingSet", ""),
        ("MemoryMax", "2G"),
    ] {
        assert_eq!(service(key), value, "{key}");
        assert!(unit.contains_key(&("Service".into(), key.into())), "{key}");
    }
    assert!(service("SystemCallFilter").starts_with("@system-service"));
    // The server refuses to start if the limit of open files is too low for max_connections.
    assert!(service("LimitNOFILE").parse::<u64>().unwrap() > 2 * 10_000);
    // The package installs the files that the unit uses.
    let manifest = read("Cargo.toml");
    for file in ["/usr/bin/mortise", "/etc/mortise/mortise.toml"] {
        assert!(service("ExecStart").contains(file) && manifest.contains(&format!("\"{}\"", &file[1..])), "{file}");
    }
    assert_eq!(service("EnvironmentFile"), "-/etc/default/mortise");
    assert!(manifest.contains("\"etc/default/mortise\""));
    // The first key must not be in the journal. systemd opens the file as root: in a directory of the service, the
    // service could replace it by a link to any other file.
    assert_eq!(service("StandardOutput"), "append:/var/log/mortise/first-start");
    assert!(read("packaging/debian/postinst").contains("install -d -o root -g root -m 0750 /var/log/mortise\n"));
}

#[test]
fn settings_of_the_package_exist() {
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

/// The instructions of the Dockerfile, each with its arguments on one line.
fn dockerfile() -> Vec<(String, String)> {
    let text = read("Dockerfile").replace("\\\n    ", "");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(instruction, arguments)| (instruction.to_owned(), arguments.to_owned()))
        .collect()
}

#[test]
fn image_is_minimal_and_uses_the_pinned_rust() {
    let lines = dockerfile();
    let all = |instruction: &str| {
        lines.iter().filter(|line| line.0 == instruction).map(|line| line.1.as_str()).collect::<Vec<_>>()
    };
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let rust = manifest["package"]["rust-version"].as_str().unwrap();
    // Both images have the same Debian release: a program that is built on a newer one does not start.
    assert_eq!(
        all("FROM"),
        [&format!("docker.io/library/rust:{rust}-slim-bookworm AS build"), "gcr.io/distroless/cc-debian12:nonroot"]
    );
    let user: u32 = all("USER")[0].split(':').next().unwrap().parse().unwrap();
    assert!(user > 0);
    assert!(all("HEALTHCHECK")[0].ends_with(r#"CMD ["mortise", "healthcheck"]"#));
    assert_eq!((all("ENTRYPOINT"), all("CMD")), (vec![r#"["mortise"]"#], vec![r#"["serve"]"#]));
    assert_eq!(all("ENV"), ["MORTISE_LISTEN=0.0.0.0:3000"]);
    let last_stage = lines.iter().rposition(|line| line.0 == "FROM").unwrap();
    assert!(lines[last_stage..].iter().all(|line| line.0 != "RUN"), "the final image has no shell");
    for copied in lines[last_stage..].iter().filter(|line| line.0 == "COPY").map(|line| &line.1) {
        let source = copied.strip_prefix("--from=build /src/").unwrap().split(' ').next().unwrap();
        assert!(source.starts_with("target/") || in_build_context(Path::new(source)), "{source}");
    }
}

/// A change of the sources must not compile the dependencies again, and the empty library that stands for the sources
/// must not end up in the program.
#[test]
fn dependencies_are_a_layer_of_their_own() {
    let lines = dockerfile();
    let build: Vec<(&str, &str)> = lines
        .iter()
        .take(lines.iter().rposition(|line| line.0 == "FROM").unwrap())
        .map(|(instruction, arguments)| (instruction.as_str(), arguments.as_str()))
        .filter(|line| ["COPY", "RUN"].contains(&line.0))
        .collect();
    let [("COPY", ".cargo .cargo"), ("COPY", "Cargo.toml Cargo.lock ./"), ("RUN", layer), sources @ ..] = &build[..]
    else {
        panic!("{build:?}")
    };
    assert_eq!(sources, [("COPY", ". ."), ("RUN", "cargo build --release --locked --bin mortise")]);
    let steps: Vec<&str> = layer.split("&& ").map(str::trim).collect();
    assert_eq!(
        steps[steps.len() - 3..],
        ["cargo build --release --locked --lib", "cargo clean --release --locked --package mortise", "rm -r src"]
    );
}

/// Whether `.dockerignore` leaves this file or directory in the build context.
fn in_build_context(path: &Path) -> bool {
    let text = read(".dockerignore");
    let mut rules = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(rules.next(), Some("*"), "the context contains only named files");
    let mut kept = rules.map(|rule| rule.strip_prefix('!').unwrap());
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists() && kept.any(|kept| path.starts_with(kept))
}

#[test]
fn build_context_contains_what_the_compiler_reads() {
    for needed in [".cargo", ".sqlx", "Cargo.lock", "Cargo.toml", "build.rs", "migrations", "src"] {
        assert!(in_build_context(Path::new(needed)), "{needed}");
    }
    for other in [".git", "docs", "scripts", "tests"] {
        assert!(!in_build_context(Path::new(other)), "{other}");
    }
    let (mut folders, mut included) = (vec![PathBuf::from("src")], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                for file in read(path.to_str().unwrap()).split("include_str!(\"").skip(1) {
                    let file = file.split('"').next().unwrap();
                    // The path without its `..`.
                    let (up, file) = (file.matches("../").count(), file.trim_start_matches("../"));
                    let file = folder.ancestors().nth(up).unwrap().join(file);
                    assert!(in_build_context(&file), "{}: {}", path.display(), file.display());
                    included += 1;
                }
            }
        }
    }
    assert!(included > 4);
}

/// The base image of the final stage contains no other library.
#[cfg(target_os = "linux")]
#[test]
fn program_needs_only_glibc_and_libgcc() {
    let output = std::process::Command::new("ldd").arg(env!("CARGO_BIN_EXE_mortise")).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let libraries: Vec<&str> = output.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(libraries.contains(&"libc.so.6"), "{output}");
    for library in libraries {
        let is_in_base = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"].contains(&library);
        assert!(is_in_base || library.contains("/ld-linux") || library.starts_with("linux-vdso"), "{library}");
    }
}

/// The keys that `compose.yaml` uses. Parsing fails at any other key, for example a misspelt one.
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
    mem_limit: Option<String>,
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
fn compose_references_are_defined_and_used() {
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
        // A secret in an environment variable must be available to the service.
        for file in service.environment.iter().filter(|(name, _)| name.ends_with("_FILE")).map(|(_, file)| file) {
            let secret = file.strip_prefix("/run/secrets/").unwrap().to_owned();
            assert!(service.secrets.contains(&secret), "{name}: {file}");
        }
        assert!(service.depends_on.keys().all(|other| compose.services.contains_key(other)), "{name}");
    }
    assert!(compose.secrets.keys().all(|secret| used.0.contains(&secret)));
    assert!(compose.volumes.keys().all(|volume| used.1.contains(&volume.as_str())));
    assert!(compose.networks.keys().all(|network| used.2.contains(&network)));
    // The command at the top of the file creates the secrets; git and the image do not contain them.
    let text = read("compose.yaml");
    for secret in compose.secrets.values() {
        let path = secret.file.strip_prefix("./").unwrap();
        assert!(text.contains(&format!("> {path}")), "{path}");
    }
    assert!(read(".gitignore").lines().any(|line| line == "/secrets"));
}

#[test]
fn compose_services_are_isolated_and_checked() {
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
    // The program sets the same for its local PostgreSQL: otherwise a rejected row is logged, with its PIN.
    let command = database.command.as_ref().unwrap();
    for option in ["log_error_verbosity=terse", "log_min_error_statement=panic"] {
        assert!(command.contains(&option.to_owned()), "{option}");
    }
    assert_eq!((mortise.image.as_str(), mortise.build.as_deref()), ("mortise", Some(".")));
    assert_eq!(mortise.depends_on["database"].condition, "service_healthy");
    assert_eq!(mortise.mem_limit.as_deref(), Some("1g"));
    assert_eq!(mortise.healthcheck.test, ["CMD", "mortise", "healthcheck"]);
    assert!(mortise.ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{:?}", mortise.ports);
    assert!(mortise.volumes.is_empty() && mortise.user.is_none() && mortise.command.is_none());
    // Docker must wait longer than shutdown_timeout_ms, which is in milliseconds.
    let settings: toml::Table = mortise::config::DEFAULTS.parse().unwrap();
    let grace: i64 = mortise.stop_grace_period.trim_end_matches('s').parse().unwrap();
    assert!(grace * 1000 > settings["shutdown_timeout_ms"].as_integer().unwrap());
}
