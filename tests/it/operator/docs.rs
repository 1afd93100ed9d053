//! Runs the commands of the documents as printed, and checks the links and the list of log messages.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mortise::managed_postgres::installation::find_binaries;

use crate::harness::process::{create_data_dir, serve_command, start};

/// The code blocks in one language below a heading.
fn blocks(document: &str, heading: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap().to_owned();
    let fence = format!("```{language}\n");
    section.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Runs a block in a directory, with this data directory and these client programs; returns its standard output.
fn run(block: &str, directory: &Path, data: &Path, clients: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_mortise")).parent().unwrap();
    let path = format!("{}:{}:{}", program.display(), clients.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-euc", block]).current_dir(directory).env("PATH", path).env("MORTISE_DATA_DIR", data);
    let output = command.env_remove("DATABASE_URL").output().unwrap();
    assert!(output.status.success(), "{block}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The major version of a program of PostgreSQL.
fn major_version(program: &Path) -> Option<u32> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

/// Returns a directory with `pg_dump` of the server's version or a newer one. `Err`: the server's version, if no such
/// program is installed. Packages with a server alone have none.
async fn client_programs() -> Result<PathBuf, u32> {
    let server = find_binaries(Path::new("no cluster")).await.unwrap();
    let version = major_version(&server.join("postgres")).unwrap();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut directories = vec![server];
    directories.extend(installed.map(|entry| entry.path().join("bin")));
    directories.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let is_suitable = |directory: &PathBuf| major_version(&directory.join("pg_dump")).is_some_and(|own| own >= version);
    directories.into_iter().find(is_suitable).ok_or(version)
}

#[tokio::test]
async fn backup_is_restored() {
    let clients = match client_programs().await {
        Ok(clients) => clients,
        Err(version) => {
            // Past the output that is captured: a test that is left out must be seen.
            let message =
                format!("backup_is_restored is left out: there is no pg_dump of PostgreSQL {version} or newer");
            return writeln!(std::io::stderr(), "{message}").unwrap();
        }
    };
    let files = tempfile::tempdir().unwrap();
    let run = |block: &str, data: &Path| run(block, files.path(), data, &clients);
    let [dump, restore] = blocks("docs/operations.md", "Backup and restore", "sh").try_into().unwrap();
    let data = create_data_dir();
    let server = start(serve_command(data.path()));
    let before = server.buy_cards().await;
    run(&dump, data.path());
    let mode = std::fs::metadata(files.path().join("mortise.dump")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can read the keys and PINs in the dump: {mode:o}");
    let after = server.buy_cards().await;
    assert!(before.contains("<number>1111111001<") && after.contains("<number>1111111002<"), "{before}{after}");
    server.stop();
    let new_data = create_data_dir();
    let restored = run(&restore, new_data.path());
    assert!(restored.contains("each row is there; the schema, the stock and the ledger are correct"), "{restored}");
    let restarted = start(serve_command(new_data.path()));
    assert_eq!(
        restarted.buy_cards().await,
        after,
        "cards sold after the dump must be for sale again, in the same order"
    );
    restarted.stop();
}

/// Links are relative to the document.
#[test]
fn links_have_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = std::fs::read_dir(root.join("docs")).unwrap().chain(std::fs::read_dir(root).unwrap());
    let documents = documents
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut links = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
            if !link.is_empty() && !link.starts_with("http") {
                links += 1;
                let target = document.parent().unwrap().join(link);
                assert!(target.exists(), "{}: the link {link} has no target", document.display());
            }
        }
    }
    assert!(links > 10);
}

/// `docs/troubleshooting.md` has an entry for each message that is logged as an error or a warning.
#[test]
fn errors_and_warnings_of_the_log_are_in_troubleshooting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    // A message in the document may continue on the next line.
    let document = document.split_whitespace().collect::<Vec<_>>().join(" ");
    let messages = logged_messages(&root.join("src"));
    assert!(messages.len() > 30, "{messages:?}");
    let missing: Vec<_> = messages.iter().filter(|message| !document.contains(&format!("`{message}"))).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md has no entry that begins with one of these: {missing:#?}");
}

/// The constant parts of the messages of all `tracing::error!` and `tracing::warn!` below a folder: the text before the
/// first `:`, `;` or `{`. The message is the last string literal of the macro call.
fn logged_messages(folder: &Path) -> Vec<String> {
    let mut messages = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            messages.extend(logged_messages(&path));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for call in text.split("tracing::error!(").skip(1).chain(text.split("tracing::warn!(").skip(1)) {
            let literal = last_literal(call);
            let message = literal.split([':', ';', '{']).next().unwrap().trim_end();
            assert!(!message.is_empty(), "{}: a message without a constant part: {literal:?}", path.display());
            messages.push(message.to_owned());
        }
    }
    messages
}

/// The last string literal before the parenthesis that closes a macro call.
fn last_literal(call: &str) -> String {
    let (mut depth, mut literal, mut chars) = (1, String::new(), call.chars());
    while depth > 0 {
        match chars.next().unwrap() {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => {
                literal = chars.by_ref().take_while(|char| *char != '"').collect();
                assert!(!literal.contains('\\'), "a message with a backslash: {literal}");
            }
            _ => {}
        }
    }
    literal
}
