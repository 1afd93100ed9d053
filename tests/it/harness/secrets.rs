//! The secrets of a database, to be looked for where none of them may be.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;

use crate::harness::Server;

/// Shorter ones can't be told from other numbers and words.
const SHORTEST: usize = 10;

/// Every PIN, key and password, hashed ones too.
pub struct Secrets(Vec<String>);

impl Secrets {
    /// What is in the database, and what is known besides: passwords as their users type them.
    pub async fn load(server: &Server, passwords: &[&str]) -> Self {
        let mut secrets = server
            .rows(
                "select pin from cards union select value from conflines where name = 'API_Secret_Key'
                 union select password from users union select password_argon2 from users",
            )
            .await;
        secrets.extend(passwords.iter().map(|password| (*password).to_owned()));
        secrets.retain(|secret| secret.len() >= SHORTEST);
        assert!(secrets.len() > passwords.len() + 5, "the world has no secrets that could be recognised");
        Self(secrets)
    }

    /// Where in a text a secret stands. A request hash is as good as a key.
    pub fn find_in_text(&self, what: &str, text: &str) -> Vec<String> {
        let secrets = AhoCorasick::new(&self.0).unwrap();
        let found = secrets.find_iter(text).map(|found| &text[found.range()]);
        let hashes = text.split(|char: char| !char.is_ascii_alphanumeric()).filter(|word| is_hash(word));
        let found: BTreeSet<_> = found.chain(hashes).collect();
        found.into_iter().map(|secret| format!("{what} has {secret}: {}", line_of(text, secret))).collect()
    }

    /// The audit rows are kept for years and read by many.
    pub async fn find_in_audit_rows(&self, server: &Server) -> Vec<String> {
        let rows = server.rows("select distinct action, data, data2, data3, data4, target_type from actions").await;
        self.find_in_text("an audit row", &rows.join("\n"))
    }
}

/// Forty of one digit are nobody's hash.
fn is_hash(word: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
    word.len() == 40
        && word.bytes().all(|byte| byte.is_ascii_hexdigit())
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
}

fn line_of<'a>(text: &'a str, secret: &str) -> &'a str {
    text.lines().find(|line| line.contains(secret)).unwrap_or_default()
}
