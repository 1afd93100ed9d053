//! `mortise explain-hash`: why a request's hash is refused, and what the client must have hashed instead.

mod tries;

use axum::http::{HeaderMap, HeaderValue, header};
use clap::Args;
use serde::Serialize;
use sqlx::PgPool;

use self::tries::{HashCandidates, KeyCandidate};
use super::database::with_database;
use super::sign::{masked_hash_input, operation_not_found};
use super::{CommandError, Report};
use crate::accounts::{AccountCache, Setting, Settings, User};
use crate::auth::admission;
use crate::auth::signature::SignedParams;
use crate::config::{Config, OnOff};
use crate::http::params::{self, Params};
use crate::http::request::ApiPath;

/// Which request.
#[derive(Debug, Args)]
pub struct Options {
    /// The URL as the client sent it, or its path
    url: String,
    /// The body that came with it: 'u=..&id=..&hash=..', or JSON
    #[arg(long, value_name = "BODY")]
    data: Option<String>,
}

/// What is to be said of a request's hash.
#[derive(Debug, Default, Serialize)]
struct Explanation {
    /// Whether the request would be admitted as far as the hash goes.
    valid: bool,
    /// What comes of the hash.
    verdict: String,
    /// The names whose values are hashed, in order, and all of what is hashed.
    parameters: String,
    hashed: String,
    /// What the client may have done instead.
    possible_causes: Vec<String>,
    /// What else stands in the request's way, or should be known.
    notes: Vec<String>,
}

/// Explains the hash.
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let request = ParsedRequest::read(options, config).await?;
    let explanation = with_database(config, async |pool| request.explain(pool, config).await).await?;
    let text = explanation.text();
    let is_right = explanation.valid;
    Ok(Report::new(text, explanation).fail_unless(is_right))
}

impl Explanation {
    fn text(&self) -> String {
        let mut lines = vec![self.verdict.clone()];
        if !self.hashed.is_empty() {
            lines.push(format!("  parameters  {}", self.parameters));
            lines.push(format!("  hashed      {}", self.hashed));
        }
        let list = |title: &str, items: &[String]| {
            let items: String = items.iter().map(|item| format!("\n  - {item}")).collect();
            if items.is_empty() { items } else { format!("{title}{items}") }
        };
        lines.push(list("It is the hash that comes out if", &self.possible_causes));
        lines.push(list("Besides:", &self.notes));
        lines.retain(|line| !line.is_empty());
        lines.join("\n")
    }
}

/// A request, read as the server reads it.
struct ParsedRequest {
    path: ApiPath,
    params: Params,
    is_get: bool,
}

impl ParsedRequest {
    async fn read(options: &Options, config: &Config) -> Result<Self, CommandError> {
        let url = options.url.split('#').next().unwrap_or_default();
        let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
        let path_and_query = behind_scheme.find('/').map_or("", |at| &behind_scheme[at..]);
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let called = path.split_once("/api/").map_or(path, |(_, called)| called);
        let path = ApiPath::parse(path, &config.prefix, config.dialect.path_suffixes());
        if path.operation.is_none() {
            return Err(operation_not_found(called));
        }
        let body = options.data.clone().unwrap_or_default();
        let mut headers = HeaderMap::new();
        if body.trim_start().starts_with('{') {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let id = path.id.as_deref().map(|id| params::percent_decoded(id.as_bytes())).transpose()?;
        let params = Params::read(id.as_deref(), query, &headers, body.into(), config.max_parameters.get()).await?;
        Ok(Self { path, params, is_get: options.data.is_none() })
    }

    async fn explain(&self, pool: &PgPool, config: &Config) -> Result<Explanation, CommandError> {
        let name = self.params.get("u").unwrap_or_default();
        let directory = AccountCache::new(pool.clone().into(), pool.clone(), OnOff::Off);
        let missing =
            || CommandError::NotFound(format!("there is no user {name:?}: whatever the hash, nobody is let in"));
        let user = directory.user(name).await?.ok_or_else(missing)?;
        let own = directory.settings(user.settings_owner()).await?;
        let system = directory.settings(0).await?;
        let known = load_all_keys(pool, &user, &own, &system, config).await?;
        let mut explanation = self.evaluate_hash(&user, &own, &system, &known, config);
        explanation.notes.extend(self.notes(&user, &own, &system, config));
        Ok(explanation)
    }

    /// What the server makes of the hash; where that is nothing good, what would have made it.
    fn evaluate_hash(
        &self,
        user: &User,
        own: &Settings,
        system: &Settings,
        known: &[KeyCandidate],
        config: &Config,
    ) -> Explanation {
        let signed = self.signed_params();
        let hash = self.params.get("hash").unwrap_or_default();
        let shown = signed.first().map(|signed| (signed.joined_names(), masked_hash_input(signed))).unwrap_or_default();
        let explanation = Explanation { parameters: shown.0, hashed: shown.1, ..Explanation::default() };
        let keys = admission::accepted_keys(user, own, system, config.dialect);
        let right = signed.iter().find(|signed| {
            (config.legacy_hashes || !signed.is_legacy)
                && keys.iter().any(|key| signed.verify(hash, key.text, config.dialect))
        });
        if let Some(right) = right {
            let by = known.iter().find(|key| key.is_accepted && right.verify(hash, key.text.reveal(), config.dialect));
            let by = by.map(|key| key.description.as_str()).unwrap_or_default();
            let verdict = format!("The hash is right: {} and {by}.", describe_values(&right.joined_names()));
            return Explanation {
                valid: true,
                verdict,
                parameters: right.joined_names(),
                hashed: masked_hash_input(right),
                ..explanation
            };
        }
        if admission::hash_check_disabled(user, own, system) {
            let verdict = "The hash is wrong, but API_Disable_hash_checking is on: nobody looks at it.".to_owned();
            return Explanation { valid: true, verdict, ..explanation };
        }
        let tries = HashCandidates { params: &self.params, signed: &signed, keys: known, config };
        match (keys.is_empty(), hash.is_empty()) {
            (true, _) => {
                Explanation { verdict: "No secret key counts for this user: `mortise key set`.".into(), ..explanation }
            }
            (_, true) => Explanation { verdict: "There is no hash in the request.".into(), ..explanation },
            _ => {
                let would_be_right = tries.find_causes(hash);
                let why = if would_be_right.is_empty() { tries.fallback_verdict(hash) } else { "The hash is wrong." };
                Explanation { verdict: why.to_owned(), possible_causes: would_be_right, ..explanation }
            }
        }
    }

    fn signed_params(&self) -> Vec<SignedParams<'_>> {
        let rules = self.path.operation.map(|operation| operation.hash_rules).unwrap_or_default();
        rules.iter().flat_map(|rule| rule.signed_params(&self.params, self.path.alias)).collect()
    }

    /// What refuses the request before its hash is looked at.
    fn notes(&self, user: &User, own: &Settings, system: &Settings, config: &Config) -> Vec<String> {
        let blocked = user.blocked && config.dialect.refuses_blocked_users();
        let password = config.require_password && self.params.get("p").is_none();
        [
            (blocked, "the user is blocked: `mortise user unblock`"),
            (
                !admission::api_enabled(user, own, system),
                "the API is off for this user: `mortise setting set Allow_API on`",
            ),
            (
                self.is_get && !system.is_enabled(Setting::AllowGetApi),
                "GET is off: send a POST (--data here), or `mortise setting set Allow_GET_API on`",
            ),
            (password, "the setting require_password wants the parameter p as well"),
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

/// Every key that there is, be it of somebody else: clients have been seen to use those.
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
    let counting = admission::accepted_keys(user, own, system, config.dialect);
    let keys = rows.into_iter().map(|row| {
        let counts = counting.iter().any(|key| key.text == row.value && key.is_previous == row.previous);
        let owner = row.username.unwrap_or_else(|| format!("user {}", row.owner));
        let whose = if row.previous {
            format!("the previous secret key of {owner}")
        } else {
            format!("the secret key of {owner}")
        };
        KeyCandidate { text: row.value.into(), description: whose, is_accepted: counts }
    });
    Ok(keys.collect())
}
