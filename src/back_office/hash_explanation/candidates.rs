//! Finds out what a client with a wrong hash has hashed: another key, order or selection of parameters, or other forms
//! of the values.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha1::{Digest, Sha1};

use crate::auth::signature::SignedParams;
use crate::config::Config;
use crate::http::params::Params;

/// Maximum number of parameters that are tried in every order and selection: 13,700 combinations.
const PERMUTED_PARAMS_MAX: usize = 7;

/// The hashes in the examples of the published pages. A client that copied one sends it with every request.
const PUBLISHED_HASHES: [(&str, &str); 4] = [
    ("37086d860581fabc278413cd1a417d5c079f6eba", "card_from_group_sell"),
    ("f7c3bc1d808e04732adf679965ccc34ca7ae3441", "cc_by_cli and tariff_wholesale_update"),
    ("7e112ededcfee097cce21b6201c6d2a00dda1f4c", "cc_group_create"),
    ("af15a89d83b6110c6424f178e1707d4f61b6f9b7", "tariff_wholesale_update"),
];
/// The SHA-1 of an empty text.
const EMPTY_HASH: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

/// A key in the database.
pub struct KeyCandidate {
    pub text: SecretString,
    /// For the operator: `the secret key of admin`.
    pub description: String,
    /// Whether the key is valid for the user of the request.
    pub is_accepted: bool,
}

/// The inputs that are tested against the hash of a request.
pub struct HashCandidates<'a> {
    pub params: &'a Params,
    pub signed: &'a [SignedParams<'a>],
    pub keys: &'a [KeyCandidate],
    pub config: &'a Config,
}

impl HashCandidates<'_> {
    /// Returns the inputs that produce this hash: normally one, or none if no tested input matches.
    pub fn find_causes(&self, hash: &str) -> Vec<String> {
        let mut sent = [0; 20];
        if hex::decode_to_slice(hash.trim(), &mut sent).is_err() {
            return Vec::new();
        }
        let matches = |parts: &[&[u8]]| {
            let mut sha1 = Sha1::new();
            parts.iter().for_each(|part| sha1.update(part));
            <[u8; 20]>::from(sha1.finalize()) == sent
        };
        let mut causes = self.match_rules(hash, &matches);
        if causes.is_empty() {
            causes = self.match_encodings(&matches);
        }
        if causes.is_empty() {
            causes.extend(self.match_permutations(&matches));
        }
        if causes.is_empty() {
            causes.extend(match_fixed_hash(hash.trim()));
        }
        causes
    }

    /// The correct values in the correct order: the cause is the key, the legacy rule, or the spelling of the hash.
    fn match_rules(&self, hash: &str, matches: &impl Fn(&[&[u8]]) -> bool) -> Vec<String> {
        let mut causes = Vec::new();
        for signed in self.signed {
            let values = concat_values(signed);
            for key in self.keys.iter().filter(|key| matches(&[values.as_bytes(), key.text.expose_secret().as_bytes()]))
            {
                let mistake = match key.is_accepted {
                    _ if signed.is_legacy && !self.config.legacy_hashes => {
                        "by the old rule, which the setting legacy_hashes refuses".to_owned()
                    }
                    false => format!("with {}, which is not valid for this user", key.description),
                    true if hash.trim() != hash => "but there are spaces around the hash".to_owned(),
                    true => "but the hash has capital letters".to_owned(),
                };
                causes.push(format!("the client hashes the correct parameters, {mistake}"));
            }
        }
        causes
    }

    /// The correct values in the correct order, encoded or joined in another way.
    fn match_encodings(&self, matches: &impl Fn(&[&[u8]]) -> bool) -> Vec<String> {
        let Some(signed) = self.signed.first() else { return Vec::new() };
        let joined = concat_values(signed);
        let join_encoded =
            |encode: fn(&str) -> String| signed.values().map(|(_, value)| encode(value)).collect::<String>();
        let escaped = join_encoded(|value| utf8_percent_encode(value, NON_ALPHANUMERIC).to_string());
        let plus = join_encoded(|value| value.replace(' ', "+"));
        let trimmed = join_encoded(|value| value.trim().to_owned());
        let pairs: Vec<String> = signed.values().map(|(name, value)| format!("{name}={value}")).collect();
        let values: Vec<&str> = signed.values().map(|(_, value)| value).collect();
        let mut causes = Vec::new();
        let mut try_input = |cause: &str, parts: &[&[u8]]| {
            if matches(parts) {
                causes.push(cause.to_owned());
            }
        };
        try_input("the client hashes no key", &[joined.as_bytes()]);
        for key in self.keys {
            let text = key.text.expose_secret();
            let key_hash = hex::encode(Sha1::digest(text));
            let inputs: [(&str, &str, &str); 9] = [
                ("the client hashes the key before the values", text, &joined),
                ("the client hashes a line end after the key", &joined, &format!("{text}\n")),
                ("the client hashes a line end after the key", &joined, &format!("{text}\r\n")),
                ("the client hashes the SHA-1 of the key instead of the key", &joined, &key_hash),
                ("the client hashes the values in their URL-escaped form", &escaped, text),
                ("the client hashes spaces as +", &plus, text),
                ("the client omits spaces around the values", &trimmed, text),
                ("the client hashes names and values (name=value&...)", &pairs.join("&"), text),
                ("the client hashes names and values (name=value...)", &pairs.concat(), text),
            ];
            for (cause, first, second) in inputs {
                try_input(&format!("{cause}, with {}", key.description), &[first.as_bytes(), second.as_bytes()]);
            }
            let without_line_end = text.trim_end_matches(['\r', '\n']);
            if without_line_end != text {
                let cause = "the key in the database ends with a line end, which the client does not hash: store the \
                             key again with `mortise key set`";
                try_input(cause, &[joined.as_bytes(), without_line_end.as_bytes()]);
            }
            // Only text with other characters than ASCII differs in Latin-1.
            if let (Some(values), Some(key_bytes)) = (encode_latin1(&joined), encode_latin1(text)) {
                let cause = "the client hashes Latin-1 bytes (ISO 8859-1) instead of UTF-8";
                let cause = format!("{cause}, with {}", key.description);
                if values != joined.as_bytes() {
                    try_input(&cause, &[&values, text.as_bytes()]);
                }
                if key_bytes != text.as_bytes() {
                    try_input(&cause, &[&values, &key_bytes]);
                }
            }
            for separator in [" ", "&", ",", ";", ":", "|", "-", "\n"] {
                let separated: String = values.iter().map(|value| format!("{value}{separator}")).collect();
                let cause = format!("the client hashes {separator:?} between the values, with {}", key.description);
                let joined = separated.strip_suffix(separator).unwrap_or_default();
                try_input(&cause, &[separated.as_bytes(), text.as_bytes()]);
                try_input(&cause, &[joined.as_bytes(), text.as_bytes()]);
            }
        }
        causes
    }

    /// Other parameters than the correct ones, in any order.
    fn match_permutations(&self, matches: &impl Fn(&[&[u8]]) -> bool) -> Option<String> {
        let correct_names: Vec<&str> = self.signed.first()?.values().map(|(name, _)| name).collect();
        let (mut pairs, others): (Vec<_>, Vec<_>) =
            self.params.pairs().filter(|(name, _)| *name != "hash").partition(|(name, _)| correct_names.contains(name));
        pairs.extend(others);
        pairs.truncate(PERMUTED_PARAMS_MAX);
        let mut order = Vec::new();
        let key = find_permutation(&pairs, &mut order, &mut |order| {
            let values: String = order.iter().map(|index| pairs[*index].1).collect();
            self.keys.iter().find(|key| matches(&[values.as_bytes(), key.text.expose_secret().as_bytes()]))
        })?;
        let names: Vec<&str> = order.iter().map(|index| pairs[*index].0).collect();
        let names = if names.is_empty() { "no parameters".to_owned() } else { names.join(", ") };
        let correct_names = correct_names.join(", ");
        Some(format!("the client hashes {names} instead of {correct_names}, with {}", key.description))
    }

    /// Returns the verdict if no cause is found. It depends only on the form of the hash.
    pub fn fallback_verdict(&self, hash: &str) -> &'static str {
        match (hash.len(), hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            (32, true) => "The hash is wrong: it has the length of an MD5; a SHA-1 has 40 digits.",
            (64, true) => "The hash is wrong: it has the length of a SHA-256; a SHA-1 has 40 digits.",
            (40, true) => {
                "The hash is wrong, and no key in the database with any order or selection of the parameters produces it: \
                 the client uses another key, hashes other values than it sends, or sends the same hash with every request."
            }
            _ => "The hash is wrong: a SHA-1 has 40 hexadecimal digits.",
        }
    }
}

/// A hash that does not depend on the request.
fn match_fixed_hash(hash: &str) -> Option<String> {
    const ADVICE: &str = "compute the hash for each request";
    if hash.eq_ignore_ascii_case(EMPTY_HASH) {
        return Some(format!("the client hashes an empty text: {ADVICE}"));
    }
    let (_, operation) = PUBLISHED_HASHES.iter().find(|(published, _)| hash.eq_ignore_ascii_case(published))?;
    Some(format!("the client sends the hash from the published example of {operation}: {ADVICE}"))
}

/// `None`: a character is not in Latin-1 (ISO 8859-1).
fn encode_latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|char| u8::try_from(char).ok()).collect()
}

fn concat_values(signed: &SignedParams<'_>) -> String {
    signed.values().map(|(_, value)| value).collect()
}

/// Calls `test` with every selection of `pairs` in every order, as indexes, until it returns `Some`.
fn find_permutation<T>(
    pairs: &[(&str, &str)],
    order: &mut Vec<usize>,
    test: &mut impl FnMut(&[usize]) -> Option<T>,
) -> Option<T> {
    if let Some(result) = test(order) {
        return Some(result);
    }
    for index in 0..pairs.len() {
        if !order.contains(&index) {
            order.push(index);
            if let Some(result) = find_permutation(pairs, order, test) {
                return Some(result);
            }
            order.pop();
        }
    }
    None
}
