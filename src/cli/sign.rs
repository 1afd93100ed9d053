//! `mortise sign`: a request signed as a client has to sign it, to compare with what a client does.

use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::database::on_database;
use super::{Failure, Report};
use crate::accounts::Directory;
use crate::auth::admission;
use crate::auth::signature::Signed;
use crate::config::{Config, Secret, Switch};
use crate::http::context::Operation;
use crate::http::params::Params;
use crate::http::request::Path;
use crate::operations::OPERATIONS;

/// In the place of the secret key, wherever a string to be hashed is shown.
pub const KEY: &str = "<secret key>";
/// What a form leaves as it is.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Which request.
#[derive(Debug, Args)]
pub struct Options {
    /// The operation, by any of its names: card_from_group_sell
    operation: String,
    /// Its parameters: id=6 quantity=2
    #[arg(value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// The user whose key is used [default: the one in u=…]
    #[arg(long, value_name = "USER")]
    key_of: Option<String>,
}

/// Prints what is hashed, the hash, and a request to try.
pub async fn run(options: &Options, config: &Config) -> Result<Report, Failure> {
    let operation = operation(&options.operation, config)?;
    let form = form(options)?;
    let params =
        Params::read(None, &form, &Default::default(), Default::default(), config.max_parameters.get()).await?;
    let user = options.key_of.as_deref().or(params.get("u"));
    let user = user.ok_or_else(|| Failure::Usage("name a user: --key-of USER, or u=USER".to_owned()))?;
    let key = key_of(user, config).await?;
    let signed: Vec<Signed<'_>> =
        operation.hashed.iter().flat_map(|rule| rule.of(&params, &options.operation)).collect();
    let signed = signed.first().ok_or_else(|| Failure::refused("nothing of this request is hashed"))?;
    let hash = hex::encode(signed.digest(key.reveal()));
    let request = match params.get("u") {
        Some(_) => format!("{form}&hash={hash}"),
        None => format!("u={}&{form}&hash={hash}", encoded(user)).replace("&&", "&"),
    };
    let url = format!("http://{}{}/api/{}", config.listen, config.prefix, options.operation);
    let (hashed, string) = (signed.names(), string(signed));
    let unsigned: Vec<&str> = params
        .names()
        .filter(|name| !matches!(*name, "u" | "p" | "hash") && signed.values().all(|(signed, _)| signed != *name))
        .collect();
    let mut text = format!("parameters  {hashed}\nhashed      {string}\nhash        {hash}\n");
    if !unsigned.is_empty() {
        text += &format!("not hashed  {}\n", unsigned.join(", "));
    }
    let curl = format!("curl -d '{request}' {url}");
    text += &format!("\n{curl}");
    let json = json!({ "parameters": hashed, "hashed": string, "hash": hash, "not_hashed": unsigned, "curl": curl });
    Ok(Report::of(text, json))
}

/// The operation that a client calls so.
pub(super) fn operation(name: &str, config: &Config) -> Result<&'static Operation, Failure> {
    let path = Path::read(&format!("/api/{name}"), &config.prefix, &[]);
    path.operation.filter(|_| path.id.is_none()).ok_or_else(|| no_operation(name))
}

/// With the names that there are.
pub(super) fn no_operation(name: &str) -> Failure {
    let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
    Failure::Missing(format!("there is no operation {name:?}; there are {}", names.join(", ")))
}

/// The parameters as a client sends them.
fn form(options: &Options) -> Result<String, Failure> {
    let pair = |given: &String| {
        let (name, value) = given.split_once('=')?;
        Some(format!("{}={}", encoded(name), encoded(value)))
    };
    let pairs: Option<Vec<String>> = options.parameters.iter().map(pair).collect();
    let pairs = pairs.ok_or_else(|| Failure::Usage("parameters look like id=6".to_owned()))?;
    Ok(pairs.join("&"))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string()
}

/// What is hashed, the key a placeholder.
pub(super) fn string(signed: &Signed<'_>) -> String {
    signed.values().map(|(_, value)| value).chain([KEY]).collect()
}

/// The first key that counts for a user.
async fn key_of(user: &str, config: &Config) -> Result<Secret, Failure> {
    on_database(config, async |pool| {
        let directory = Directory::new(pool.clone().into(), pool.clone(), Switch::Off);
        let missing = || Failure::Missing(format!("there is no user {user:?}"));
        let found = directory.user(user).await?.ok_or_else(missing)?;
        let (own, system) = (directory.settings(found.settings_owner()).await?, directory.settings(0).await?);
        let key =
            admission::keys(&found, &own, &system, config.dialect).first().map(|key| Secret::from(key.text.to_owned()));
        key.ok_or_else(|| Failure::Missing(format!("no secret key counts for {user}: `mortise key set` sets one")))
    })
    .await
}
