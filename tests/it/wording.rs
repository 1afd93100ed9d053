//! The words of the source and the documents: plain technical English, and lines that fit a screen.

use std::path::{Path, PathBuf};

/// Words that hide which part of the system acts, and metaphors that once were names. Text writes the subject instead: the
/// client, the server, the statement, the cache. (Compared in lower case; word boundaries on both sides.)
const WORDS: [&str; 28] = [
    "anybody",
    "at hand",
    "be it",
    "by whatever hand",
    "deed",
    "deeds",
    "errand",
    "errands",
    "everybody",
    "go together",
    "goes together",
    "in vain",
    "is at it",
    "likewise",
    "nobody",
    "score card",
    "sign of life",
    "signs of life",
    "somebody",
    "the house",
    "those who",
    "whoever",
    "whomever",
    "wish",
    "wishes",
    "yardstick",
    "yardsticks",
    "told to",
];

/// Headings that no reader searches for.
const HEADINGS: [&str; 13] = [
    "at three in the morning",
    "a new secret key, without a gap",
    "how fast it is, and how we know",
    "rules that keep it standing",
    "sales that go together",
    "the contract on the wire",
    "the first call",
    "the house",
    "two commands",
    "watching",
    "what can't be had",
    "what mortise does otherwise",
    "what was tried and thrown away",
];

const LINE_LEN_MAX: usize = 119;

#[test]
fn text_uses_no_listed_word() {
    let mut hits = Vec::new();
    for file in files(&["rs", "md", "toml", "yml", "yaml", "json", "sh", "service", "html", "txt", ""]) {
        for (number, line) in read(&file).lines().enumerate() {
            let lower = line.to_lowercase();
            // The operating system's user without rights.
            let lower = lower.replace("user nobody", "").replace("\"nobody\"", "").replace("`nobody`", "");
            hits.extend(
                WORDS
                    .iter()
                    .filter(|word| contains_word(&lower, word))
                    .map(|word| format!("{}:{}: {word}: {}", file.display(), number + 1, line.trim())),
            );
        }
    }
    assert!(hits.is_empty(), "{} lines:\n{}", hits.len(), hits.join("\n"));
}

#[test]
fn documents_use_no_listed_heading() {
    for file in files(&["md"]) {
        for line in read(&file).lines().filter(|line| line.starts_with('#')) {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            assert!(!HEADINGS.contains(&heading.as_str()), "{}: {line}", file.display());
        }
    }
}

/// A line fits a screen of 120 columns; only a line that can't be broken may be longer: an address, or a command of psql.
#[test]
fn lines_of_documents_and_comments_are_short() {
    let mut hits = Vec::new();
    for file in files(&["md", "rs"]) {
        let is_code = file.extension().is_some_and(|extension| extension == "rs");
        for (number, line) in read(&file).lines().enumerate() {
            let text = line.trim_start();
            let is_text = if is_code { text.starts_with("//") } else { !text.starts_with("\\copy") };
            let can_break = !(text.contains("://") && text.split_whitespace().count() < 4);
            if is_text && can_break && line.chars().count() > LINE_LEN_MAX + usize::from(is_code) {
                hits.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(hits.is_empty(), "lines above {LINE_LEN_MAX} columns:\n{}", hits.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// The repository's own texts with one of the extensions. Applied migrations are never edited, recorded cases are MOR's words.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    const FOLDERS: [&str; 10] =
        ["benches", "config", "contrib", "docs", "packaging", "scripts", "src", "templates", "tests", ".ci"];
    let mut files: Vec<PathBuf> =
        ["README.md", "SECURITY.md", "CHANGELOG.md", "Dockerfile", "compose.yaml", "Cargo.toml"]
            .map(PathBuf::from)
            .to_vec();
    let mut folders: Vec<PathBuf> = FOLDERS.map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap().map(|entry| entry.unwrap()) {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.retain(|file| {
        let extension = file.extension().map_or("", |extension| extension.to_str().unwrap());
        extensions.contains(&extension)
            && ![Path::new("tests/it/wording.rs"), Path::new("tests/it/conformance_known.json")]
                .contains(&file.as_path())
    });
    assert!(files.len() > 10, "{files:?}");
    files
}

fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let is_part = |char: Option<char>| char.is_some_and(char::is_alphanumeric);
        !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next())
    })
}
