//! Explains why the hash of a request is refused, and which input the client hashed instead.

mod candidates;

use axum::http::{HeaderMap, HeaderValue, header};
use secrecy::ExposeSecret;
use serde::Serialize;
use sqlx::PgPool;

use self::candidates::{HashCandidates, KeyCandidate};
use super::BackOfficeError;
use crate::accounts::{AccountCache, Setting, Settings, User};
use crate::auth::admission;
use crate::auth::signature::SignedParams;
use crate::config::Config;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::context::Operation;
use crate::http::params::{self, Params};
use crate::http::path::routed_path;
use crate::operations::{self, OPERATIONS};

/// The explanation of a request's hash. Without `Debug`: the hashed text can have PINs.
#[derive(Default, Serialize)]
pub struct Explanation {
    /// Whether the server accepts the hash, or does not check it.
    pub valid: bool,
    /// The result in one sentence.
    pub verdict: String,
    /// The names of the parameters that are hashed, in order.
    pub parameters: String,
    /// The text that is hashed, with a placeholder for the key.
    pub hashed: String,
    /// The inputs that the client may have hashed instead.
    pub possible_causes: Vec<String>,
    /// Other reasons for which the server refuses the request.
    pub notes: Vec<String>,
}

impl Explanation {
    /// Returns the explanation as text for a terminal.
    pub fn text(&self) -> String {
        let mut lines = vec![self.verdict.clone()];
        if !self.hashed.is_empty() {
            lines.push(format!("  parameters  {}", self.parameters));
            lines.push(format!("  hashed      {}", self.hashed));
        }
        let list = |title: &str, items: &[String]| {
            let items: String = items.iter().map(|item| format!("\n  - {item}")).collect();
            if items.is_empty() { items } else { format!("{title}{items}") }
        };
        lines.push(list("Possible causes:", &self.possible_causes));
        lines.push(list("Notes:", &self.notes));
        lines.retain(|line| !line.is_empty());
        lines.join("\n")
    }
}

/// A request that a client sent. Without `Debug`: it can have a password and PINs.
#[derive(Clone, Copy)]
pub struct SentRequest<'a> {
    /// The URL, or its path and query.
    pub url: &'a str,
    /// The body of a POST: a form, or JSON. `None`: a GET.
    pub body: Option<&'a str>,
}

/// Explains the hash of a request. The explanation contains no key and no hash.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] without the operation or the user, [`BackOfficeError::Refused`] if the request cannot
/// be read.
pub async fn explain(
    sent: SentRequest<'_>,
    pool: &PgPool,
    accounts: &AccountCache,
    config: &Config,
) -> Result<Explanation, BackOfficeError> {
    let request = ParsedRequest::read(sent, config).await?;
    let name = request.params.get("u").unwrap_or_default();
    let not_found =
        || BackOfficeError::NotFound(format!("there is no user {name:?}: the request is refused with any hash"));
    let user = accounts.user(name).await?.ok_or_else(not_found)?;
    let own = accounts.settings(user.settings_owner()).await?;
    let system = accounts.settings(0).await?;
    let keys = load_all_keys(pool, &user, &own, &system, config).await?;
    let config = config.clone();
    // Some ten thousand inputs for each key are hashed: sales must not wait for them.
    let work = tokio::task::spawn_blocking(move || {
        let mut explanation = request.evaluate_hash(&user, &own, &system, &keys, &config);
        explanation.notes.extend(request.notes(&user, &own, &system, &config));
        explanation
    });
    work.await.map_err(|error| BackOfficeError::Refused(format!("the hash cannot be explained: {error}")))
}

/// Returns the error for an unknown operation, with the names of all operations.
pub fn operation_not_found(name: &str) -> BackOfficeError {
    let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
    BackOfficeError::NotFound(format!("there is no operation {name:?}; available: {}", names.join(", ")))
}

/// A request, parsed as the server parses it.
struct ParsedRequest {
    operation: &'static Operation,
    /// The operation's name or alias in the path.
    alias: &'static str,
    params: Params,
    is_get: bool,
}

impl ParsedRequest {
    async fn read(sent: SentRequest<'_>, config: &Config) -> Result<Self, BackOfficeError> {
        let url = sent.url.split('#').next().unwrap_or_default();
        let without_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
        let path_and_query = without_scheme.find('/').map_or("", |start| &without_scheme[start..]);
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let (path, _) = routed_path(path, config.dialect);
        let api_path = path.strip_prefix(&config.prefix).unwrap_or(&path).strip_prefix("/api/").unwrap_or_default();
        let (name, id) = api_path.split_once('/').map_or((api_path, None), |(name, id)| (name, Some(id)));
        let name = if id.is_some_and(|id| id.contains('/')) { api_path } else { name };
        let (operation, alias) = operations::find(name)
            .ok_or_else(|| operation_not_found(path.split_once("/api/").map_or(&path, |(_, name)| name)))?;
        let body = sent.body.unwrap_or_default().to_owned();
        let mut headers = HeaderMap::new();
        if body.trim_start().starts_with('{') {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let unreadable = |error: ApiError| BackOfficeError::Refused(error.message(Dialect::Documented));
        let id = id.map(|id| params::percent_decoded(id.as_bytes())).transpose().map_err(unreadable)?;
        let params = Params::read(id.as_deref(), query, &headers, body.into(), config.max_parameters.get()).await;
        let params = params.map_err(unreadable)?;
        Ok(Self { operation, alias, params, is_get: sent.body.is_none() })
    }

    /// Checks the hash as the server does. If it is wrong, finds the input that the client hashed.
    fn evaluate_hash(
        &self,
        user: &User,
        own: &Settings,
        system: &Settings,
        all_keys: &[KeyCandidate],
        config: &Config,
    ) -> Explanation {
        let signed = self.signed_params();
        let hash = self.params.get("hash").unwrap_or_default();
        let (parameters, hashed) =
            signed.first().map(|signed| (signed.joined_names(), signed.masked_input())).unwrap_or_default();
        let explanation = Explanation { parameters, hashed, ..Explanation::default() };
        let accepted_keys = admission::accepted_keys(user, own, system, config.dialect);
        let matching = signed.iter().find(|signed| {
            (config.legacy_hashes || !signed.is_legacy)
                && accepted_keys.iter().any(|key| signed.verify(hash, key.text, config.dialect))
        });
        if let Some(matching) = matching {
            let key = all_keys
                .iter()
                .find(|key| key.is_accepted && matching.verify(hash, key.text.expose_secret(), config.dialect));
            let key = key.map(|key| key.description.as_str()).unwrap_or_default();
            let verdict = format!("The hash is correct: {} and {key}.", describe_values(&matching.joined_names()));
            return Explanation {
                valid: true,
                verdict,
                parameters: matching.joined_names(),
                hashed: matching.masked_input(),
                ..explanation
            };
        }
        if admission::hash_check_disabled(user, own, system) {
            let verdict = "The hash is wrong, but it is not checked: API_Disable_hash_checking is on.".to_owned();
            return Explanation { valid: true, verdict, ..explanation };
        }
        let candidates = HashCandidates { params: &self.params, signed: &signed, keys: all_keys, config };
        match (accepted_keys.is_empty(), hash.is_empty()) {
            (true, _) => Explanation {
                verdict: "This user has no valid secret key: use `mortise key set`.".into(),
                ..explanation
            },
            (_, true) => Explanation { verdict: "The request has no hash.".into(), ..explanation },
            _ => {
                let possible_causes = candidates.find_causes(hash);
                let verdict =
                    if possible_causes.is_empty() { candidates.fallback_verdict(hash) } else { "The hash is wrong." };
                Explanation { verdict: verdict.to_owned(), possible_causes, ..explanation }
            }
        }
    }

    fn signed_params(&self) -> Vec<SignedParams<'_>> {
        let rules = self.operation.hash_rules;
        rules.iter().flat_map(|rule| rule.signed_params(&self.params, self.alias)).collect()
    }

    /// Returns reasons other than the hash for which the server refuses the request.
    fn notes(&self, user: &User, own: &Settings, system: &Settings, config: &Config) -> Vec<String> {
        let is_blocked = user.blocked && config.dialect.refuses_blocked_users();
        let lacks_password = config.require_password && self.params.get("p").is_none();
        [
            (is_blocked, "the user is blocked: use `mortise user unblock`"),
            (
                !admission::api_enabled(user, own, system),
                "the API is off for this user: use `mortise setting set Allow_API on`",
            ),
            (
                self.is_get && !system.is_enabled(Setting::AllowGetApi),
                "GET is off: send a POST (here: --data), or use `mortise setting set Allow_GET_API on`",
            ),
            (lacks_password, "the parameter p is missing: the setting require_password is on"),
        ]
        .into_iter()
        .filter(|(applies, _)| *applies)
        .map(|(_, note)| note.to_owned())
        .collect()
    }
}

fn describe_values(names: &str) -> String {
    if names.is_empty() { "no parameters".to_owned() } else { format!("the values of {names}") }
}

/// Loads the keys of all owners: some clients use the key of another owner.
async fn load_all_keys(
    pool: &PgPool,
    user: &User,
    own: &Settings,
    system: &Settings,
    config: &Config,
) -> sqlx::Result<Vec<KeyCandidate>> {
    let rows = sqlx::query!(
        r#"select c.value as "value!", c.name = 'API_Secret_Key_Previous' as "previous!", coalesce(c.owner_id, 0) as "owner!", u.username as "username?"
           from conflines c left join users u on u.id = c.owner_id
           where c.name in ('API_Secret_Key', 'API_Secret_Key_Previous') and c.value <> ''
           order by c.owner_id <> $1, c.name, c.id"#,
        user.settings_owner()
    )
    .fetch_all(pool)
    .await?;
    let accepted_keys = admission::accepted_keys(user, own, system, config.dialect);
    let keys = rows.into_iter().map(|row| {
        let is_accepted = accepted_keys.iter().any(|key| key.text == row.value && key.is_previous == row.previous);
        let owner = row.username.unwrap_or_else(|| format!("user {}", row.owner));
        let description = if row.previous {
            format!("the previous secret key of {owner}")
        } else {
            format!("the secret key of {owner}")
        };
        KeyCandidate { text: row.value.into(), description, is_accepted }
    });
    Ok(keys.collect())
}
