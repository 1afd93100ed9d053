//! Searches texts for the secrets of a database.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;

use crate::harness::Server;

/// Shorter secrets can't be distinguished from other numbers and words.
const SECRET_LEN_MIN: usize = 10;

/// All PINs, keys and passwords, also the password hashes.
pub struct Secrets(Vec<String>);

impl Secrets {
    /// Loads the secrets of the database. `passwords` are the users' passwords in plain text, which it does not
    /// contain.
    pub async fn load(server: &Server, passwords: &[&str]) -> Self {
        let mut secrets = server
            .rows(
                "select pin from cards union select value from conflines where name = 'API_Secret_Key'
                 union select password from users union select password_argon2 from users",
            )
            .await;
        secrets.extend(passwords.iter().map(|password| (*password).to_owned()));
        secrets.retain(|secret| secret.len() >= SECRET_LEN_MIN);
        assert!(
            secrets.len() > passwords.len() + 5,
            "the fixtures have too few secrets of {SECRET_LEN_MIN} characters"
        );
        Self(secrets)
    }

    /// Leaves out texts that are sent in other fields too.
    pub fn without(mut self, texts: &[&str]) -> Self {
        self.0.retain(|secret| !texts.contains(&secret.as_str()));
        self
    }

    /// Returns a message for each secret that `text` contains. Request hashes are secrets too: they authorize a
    /// request.
    pub fn find_in_text(&self, source: &str, text: &str) -> Vec<String> {
        let known = AhoCorasick::new(&self.0).unwrap();
        let matches = known.find_iter(text).map(|found| &text[found.range()]);
        let hashes = text.split(|char: char| !char.is_ascii_alphanumeric()).filter(|word| is_hash(word));
        let leaked: BTreeSet<_> = matches.chain(hashes).collect();
        leaked.into_iter().map(|secret| format!("{source} contains {secret}: {}", line_with(text, secret))).collect()
    }

    /// Searches the audit rows and the change log, which many people can read for years.
    pub async fn find_in_audit_rows(&self, server: &Server) -> Vec<String> {
        let mut rows = server.rows("select distinct action, data, data2, data3, data4, target_type from actions").await;
        rows.extend(server.rows("select distinct before, after, target_name, who from change_log").await);
        self.find_in_text("an audit row", &rows.join("\n"))
    }
}

/// Whether the word is a SHA-1 in hexadecimal. One without letters or without digits is taken for test data.
fn is_hash(word: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
    word.len() == 40
        && word.bytes().all(|byte| byte.is_ascii_hexdigit())
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
}

fn line_with<'a>(text: &'a str, secret: &str) -> &'a str {
    text.lines().find(|line| line.contains(secret)).unwrap_or_default()
}
