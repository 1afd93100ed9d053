//! `mortise explain-hash`: why a request's hash is refused, and what the client must have hashed instead.

mod tries;

use axum::http::{HeaderMap, HeaderValue, header};
use clap::Args;
use serde::Serialize;
use sqlx::PgPool;

use self::tries::{KnownKey, Tries};
use super::database::on_database;
use super::sign::{no_operation, string};
use super::{Failure, Report};
use crate::accounts::{Directory, Setting, Settings, User};
use crate::auth::admission;
use crate::auth::signature::Signed;
use crate::config::{Config, Switch};
use crate::http::params::{self, Params};
use crate::http::request::Path;

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
    right: bool,
    /// What comes of the hash.
    verdict: String,
    /// The names whose values are hashed, in order, and all of what is hashed.
    parameters: String,
    hashed: String,
    /// What the client may have done instead.
    would_be_right: Vec<String>,
    /// What else stands in the request's way, or should be known.
    notes: Vec<String>,
}

/// Explains the hash.
pub async fn run(options: &Options, config: &Config) -> Result<Report, Failure> {
    let request = Request::read(options, config).await?;
    let explanation = on_database(config, async |pool| request.explain(pool, config).await).await?;
    let text = explanation.text();
    let is_right = explanation.right;
    Ok(Report::of(text, explanation).bad_unless(is_right))
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
        lines.push(list("It is the hash that comes out if", &self.would_be_right));
        lines.push(list("Besides:", &self.notes));
        lines.retain(|line| !line.is_empty());
        lines.join("\n")
    }
}

/// A request, read as the server reads it.
struct Request {
    path: Path,
    params: Params,
    is_get: bool,
}

impl Request {
    async fn read(options: &Options, config: &Config) -> Result<Self, Failure> {
        let url = options.url.split('#').next().unwrap_or_default();
        let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
        let path_and_query = behind_scheme.find('/').map_or("", |at| &behind_scheme[at..]);
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let called = path.split_once("/api/").map_or(path, |(_, called)| called);
        let path = Path::read(path, &config.prefix, config.dialect.suffixes());
        if path.operation.is_none() {
            return Err(no_operation(called));
        }
        let body = options.data.clone().unwrap_or_default();
        let mut headers = HeaderMap::new();
        if body.trim_start().starts_with('{') {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let id = path.id.as_deref().map(|id| params::unescaped(id.as_bytes())).transpose()?;
        let params = Params::read(id.as_deref(), query, &headers, body.into(), config.max_parameters.get()).await?;
        Ok(Self { path, params, is_get: options.data.is_none() })
    }

    async fn explain(&self, pool: &PgPool, config: &Config) -> Result<Explanation, Failure> {
        let name = self.params.get("u").unwrap_or_default();
        let directory = Directory::new(pool.clone().into(), pool.clone(), Switch::Off);
        let missing = || Failure::Missing(format!("there is no user {name:?}: whatever the hash, nobody is let in"));
        let user = directory.user(name).await?.ok_or_else(missing)?;
        let own = directory.settings(user.settings_owner()).await?;
        let system = directory.settings(0).await?;
        let known = known_keys(pool, &user, &own, &system, config).await?;
        let mut explanation = self.judge(&user, &own, &system, &known, config);
        explanation.notes.extend(self.notes(&user, &own, &system, config));
        Ok(explanation)
    }

    /// What the server makes of the hash; where that is nothing good, what would have made it.
    fn judge(
        &self,
        user: &User,
        own: &Settings,
        system: &Settings,
        known: &[KnownKey],
        config: &Config,
    ) -> Explanation {
        let signed = self.signed();
        let hash = self.params.get("hash").unwrap_or_default();
        let shown = signed.first().map(|signed| (signed.names(), string(signed))).unwrap_or_default();
        let explanation = Explanation { parameters: shown.0, hashed: shown.1, ..Explanation::default() };
        let keys = admission::keys(user, own, system, config.dialect);
        let right = signed.iter().find(|signed| {
            (config.legacy_hashes || !signed.legacy)
                && keys.iter().any(|key| signed.is_right(hash, key.text, config.dialect))
        });
        if let Some(right) = right {
            let by = known.iter().find(|key| key.counts && right.is_right(hash, key.text.reveal(), config.dialect));
            let by = by.map(|key| key.whose.as_str()).unwrap_or_default();
            let verdict = format!("The hash is right: {} and {by}.", or_nothing(&right.names()));
            return Explanation {
                right: true,
                verdict,
                parameters: right.names(),
                hashed: string(right),
                ..explanation
            };
        }
        if admission::is_unchecked(user, own, system) {
            let verdict = "The hash is wrong, but API_Disable_hash_checking is on: nobody looks at it.".to_owned();
            return Explanation { right: true, verdict, ..explanation };
        }
        let tries = Tries { params: &self.params, signed: &signed, keys: known, config };
        match (keys.is_empty(), hash.is_empty()) {
            (true, _) => {
                Explanation { verdict: "No secret key counts for this user: `mortise key set`.".into(), ..explanation }
            }
            (_, true) => Explanation { verdict: "There is no hash in the request.".into(), ..explanation },
            _ => {
                let would_be_right = tries.all(hash);
                let why = if would_be_right.is_empty() { tries.flaw(hash) } else { "The hash is wrong." };
                Explanation { verdict: why.to_owned(), would_be_right, ..explanation }
            }
        }
    }

    fn signed(&self) -> Vec<Signed<'_>> {
        let rules = self.path.operation.map(|operation| operation.hashed).unwrap_or_default();
        rules.iter().flat_map(|rule| rule.of(&self.params, self.path.called)).collect()
    }

    /// What refuses the request before its hash is looked at.
    fn notes(&self, user: &User, own: &Settings, system: &Settings, config: &Config) -> Vec<String> {
        let blocked = user.shut_out && config.dialect.refuses_blocked_users();
        let password = config.require_password && self.params.get("p").is_none();
        [
            (blocked, "the user is blocked: `mortise user unblock`"),
            (
                !admission::is_on_for(user, own, system),
                "the API is off for this user: `mortise setting set Allow_API on`",
            ),
            (
                self.is_get && !system.on(Setting::AllowGetApi),
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

fn or_nothing(names: &str) -> String {
    if names.is_empty() { "no parameters".to_owned() } else { format!("the values of {names}") }
}

/// Every key that there is, be it of somebody else: clients have been seen to use those.
async fn known_keys(
    pool: &PgPool,
    user: &User,
    own: &Settings,
    system: &Settings,
    config: &Config,
) -> sqlx::Result<Vec<KnownKey>> {
    let rows = sqlx::query!(
        r#"select c.value as "value!", c.name = 'API_Secret_Key_Previous' as "previous!", coalesce(c.owner_id, 0) as "owner!", u.username as "username?"
           from conflines c left join users u on u.id = c.owner_id
           where c.name in ('API_Secret_Key', 'API_Secret_Key_Previous') and c.value <> ''
           order by c.owner_id <> $1, c.name, c.id"#,
        user.settings_owner()
    )
    .fetch_all(pool)
    .await?;
    let counting = admission::keys(user, own, system, config.dialect);
    let keys = rows.into_iter().map(|row| {
        let counts = counting.iter().any(|key| key.text == row.value && key.is_previous == row.previous);
        let owner = row.username.unwrap_or_else(|| format!("user {}", row.owner));
        let whose = if row.previous {
            format!("the previous secret key of {owner}")
        } else {
            format!("the secret key of {owner}")
        };
        KnownKey { text: row.value.into(), whose, counts }
    });
    Ok(keys.collect())
}
