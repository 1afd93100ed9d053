//! What a client may have hashed that it shouldn't have: other keys, other orders, other parameters, other forms of the same.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::{Digest, Sha1};

use crate::auth::signature::SignedParams;
use crate::config::{Config, Secret};
use crate::http::params::Params;

/// So many parameters are tried in every order and choice: 13,700 of them.
const PERMUTED_PARAMS_MAX: usize = 7;

/// A key in the database, and whether it counts for the request's user.
pub struct KeyCandidate {
    pub text: Secret,
    pub description: String,
    pub is_accepted: bool,
}

/// A request, and all that can be tried with it.
pub struct HashCandidates<'a> {
    pub params: &'a Params,
    pub signed: &'a [SignedParams<'a>],
    pub keys: &'a [KeyCandidate],
    pub config: &'a Config,
}

impl HashCandidates<'_> {
    /// What makes this hash; as a rule one thing, or nothing that could be thought of.
    pub fn find_causes(&self, hash: &str) -> Vec<String> {
        let mut sent = [0; 20];
        if hex::decode_to_slice(hash.trim(), &mut sent).is_err() {
            return Vec::new();
        }
        let is_it = |parts: &[&str]| {
            let mut sha1 = Sha1::new();
            parts.iter().for_each(|part| sha1.update(part.as_bytes()));
            <[u8; 20]>::from(sha1.finalize()) == sent
        };
        let mut found = self.match_rules(hash, &is_it);
        if found.is_empty() {
            found = self.match_encodings(&is_it);
        }
        if found.is_empty() {
            found.extend(self.match_permutations(&is_it));
        }
        found
    }

    /// Hashed as it should be: then it is the key, a rule that is switched off, or the hash's own letters.
    fn match_rules(&self, hash: &str, is_it: &impl Fn(&[&str]) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        for signed in self.signed {
            let values = concat_values(signed);
            for key in self.keys.iter().filter(|key| is_it(&[&values, key.text.reveal()])) {
                let reason = match key.is_accepted {
                    _ if signed.is_legacy && !self.config.legacy_hashes => {
                        "by the older rule, which the setting legacy_hashes refuses".to_owned()
                    }
                    false => format!("with {}, which doesn't count for this user (any more)", key.description),
                    true if hash.trim() != hash => "and the hash comes without the spaces around it".to_owned(),
                    true => "and the hash is written in small letters".to_owned(),
                };
                found.push(format!("the parameters are hashed as they should be, {reason}"));
            }
        }
        found
    }

    /// The right values in the right order, put together in another way.
    fn match_encodings(&self, is_it: &impl Fn(&[&str]) -> bool) -> Vec<String> {
        let Some(signed) = self.signed.first() else { return Vec::new() };
        let joined = concat_values(signed);
        let each = |form: fn(&str) -> String| signed.values().map(|(_, value)| form(value)).collect::<String>();
        let escaped = each(|value| utf8_percent_encode(value, NON_ALPHANUMERIC).to_string());
        let plus = each(|value| value.replace(' ', "+"));
        let trimmed = each(|value| value.trim().to_owned());
        let pairs: Vec<String> = signed.values().map(|(name, value)| format!("{name}={value}")).collect();
        let only: Vec<&str> = signed.values().map(|(_, value)| value).collect();
        let mut found = Vec::new();
        let mut try_it = |what: &str, parts: &[&str]| {
            if is_it(parts) {
                found.push(what.to_owned());
            }
        };
        try_it("no key is hashed at all", &[&joined]);
        for key in self.keys {
            let text = key.text.reveal();
            let hashed = hex::encode(Sha1::digest(text));
            let tries: [(&str, &[&str]); 8] = [
                ("the key goes before the values, not behind them", &[text, &joined]),
                ("a line end is hashed behind the key", &[&joined, text, "\n"]),
                ("the key's own SHA-1 is hashed instead of the key", &[&joined, &hashed]),
                ("the values are hashed as the URL escapes them", &[&escaped, text]),
                ("spaces are hashed as +", &[&plus, text]),
                ("spaces around the values are left out", &[&trimmed, text]),
                ("names are hashed along with the values (name=value&...)", &[&pairs.join("&"), text]),
                ("names are hashed along with the values (name=value...)", &[&pairs.concat(), text]),
            ];
            for (what, parts) in tries {
                try_it(&format!("{what}, with {}", key.description), parts);
            }
            for separator in [" ", "&", ",", ";", ":", "|", "-", "\n"] {
                let separated: String = only.iter().map(|value| format!("{value}{separator}")).collect();
                let what = format!("{separator:?} stands between the values, with {}", key.description);
                try_it(&what, &[&separated, text]);
                try_it(&what, &[separated.strip_suffix(separator).unwrap_or_default(), text]);
            }
        }
        found
    }

    /// Other parameters than should be, in whichever order.
    fn match_permutations(&self, is_it: &impl Fn(&[&str]) -> bool) -> Option<String> {
        let right: Vec<&str> = self.signed.first()?.values().map(|(name, _)| name).collect();
        let (mut pairs, others): (Vec<_>, Vec<_>) =
            self.params.pairs().filter(|(name, _)| *name != "hash").partition(|(name, _)| right.contains(name));
        pairs.extend(others);
        pairs.truncate(PERMUTED_PARAMS_MAX);
        let mut order = Vec::new();
        let key = find_permutation(&pairs, &mut order, &mut |order| {
            let values: String = order.iter().map(|at| pairs[*at].1).collect();
            self.keys.iter().find(|key| is_it(&[&values, key.text.reveal()]))
        })?;
        let names: Vec<&str> = order.iter().map(|at| pairs[*at].0).collect();
        let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        Some(format!("{names} are hashed and not {}, with {}", right.join(", "), key.description))
    }

    /// Where nothing makes this hash: what can be said of it alone.
    pub fn fallback_verdict(&self, hash: &str) -> &'static str {
        match (hash.len(), hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            (32, true) => "The hash is wrong: it is as long as an MD5; a SHA-1 has 40 digits.",
            (64, true) => "The hash is wrong: it is as long as a SHA-256; a SHA-1 has 40 digits.",
            (40, true) => {
                "The hash is wrong, and no key in the database, order or choice of parameters makes it: \
                 the client has another key, or other values than it sends."
            }
            _ => "The hash is wrong: a SHA-1 is 40 hexadecimal digits.",
        }
    }
}

fn concat_values(signed: &SignedParams<'_>) -> String {
    signed.values().map(|(_, value)| value).collect()
}

/// Every choice of `pairs` in every order, until one is it.
fn find_permutation<T>(
    pairs: &[(&str, &str)],
    order: &mut Vec<usize>,
    is_it: &mut impl FnMut(&[usize]) -> Option<T>,
) -> Option<T> {
    if let Some(found) = is_it(order) {
        return Some(found);
    }
    for at in 0..pairs.len() {
        if !order.contains(&at) {
            order.push(at);
            if let Some(found) = find_permutation(pairs, order, is_it) {
                return Some(found);
            }
            order.pop();
        }
    }
    None
}
