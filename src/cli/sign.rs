//! `mortise sign`: a request signed as a client has to sign it, to compare with what a client does.

use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::database::with_database;
use super::{CommandError, Report};
use crate::accounts::AccountCache;
use crate::auth::admission;
use crate::auth::signature::SignedParams;
use crate::config::{Config, OnOff, Secret};
use crate::http::context::Operation;
use crate::http::params::Params;
use crate::http::request::ApiPath;
use crate::operations::OPERATIONS;

/// In the place of the secret key, wherever a string to be hashed is shown.
pub const KEY_PLACEHOLDER: &str = "<secret key>";
/// What a form leaves as it is.
const FORM_ENCODE_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let operation = find_operation(&options.operation, config)?;
    let form = encode_form(options)?;
    let params =
        Params::read(None, &form, &Default::default(), Default::default(), config.max_parameters.get()).await?;
    let user = options.key_of.as_deref().or(params.get("u"));
    let user = user.ok_or_else(|| CommandError::Usage("name a user: --key-of USER, or u=USER".to_owned()))?;
    let key = find_signing_key(user, config).await?;
    let signed: Vec<SignedParams<'_>> =
        operation.hash_rules.iter().flat_map(|rule| rule.signed_params(&params, &options.operation)).collect();
    let signed = signed.first().ok_or_else(|| CommandError::failed("nothing of this request is hashed"))?;
    let hash = hex::encode(signed.digest(key.reveal()));
    let request = match params.get("u") {
        Some(_) => format!("{form}&hash={hash}"),
        None => format!("u={}&{form}&hash={hash}", percent_encode(user)).replace("&&", "&"),
    };
    let url = format!("http://{}{}/api/{}", config.listen, config.prefix, options.operation);
    let (hashed, string) = (signed.joined_names(), masked_hash_input(signed));
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
    Ok(Report::new(text, json))
}

/// The operation that a client calls so.
pub(super) fn find_operation(name: &str, config: &Config) -> Result<&'static Operation, CommandError> {
    let path = ApiPath::parse(&format!("/api/{name}"), &config.prefix, &[]);
    path.operation.filter(|_| path.id.is_none()).ok_or_else(|| operation_not_found(name))
}

/// With the names that there are.
pub(super) fn operation_not_found(name: &str) -> CommandError {
    let names: Vec<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
    CommandError::NotFound(format!("there is no operation {name:?}; there are {}", names.join(", ")))
}

/// The parameters as a client sends them.
fn encode_form(options: &Options) -> Result<String, CommandError> {
    let pair = |given: &String| {
        let (name, value) = given.split_once('=')?;
        Some(format!("{}={}", percent_encode(name), percent_encode(value)))
    };
    let pairs: Option<Vec<String>> = options.parameters.iter().map(pair).collect();
    let pairs = pairs.ok_or_else(|| CommandError::Usage("parameters look like id=6".to_owned()))?;
    Ok(pairs.join("&"))
}

fn percent_encode(text: &str) -> String {
    utf8_percent_encode(text, FORM_ENCODE_SET).to_string()
}

/// What is hashed, the key a placeholder.
pub(super) fn masked_hash_input(signed: &SignedParams<'_>) -> String {
    signed.values().map(|(_, value)| value).chain([KEY_PLACEHOLDER]).collect()
}

/// The first key that counts for a user.
async fn find_signing_key(user: &str, config: &Config) -> Result<Secret, CommandError> {
    with_database(config, async |pool| {
        let directory = AccountCache::new(pool.clone().into(), pool.clone(), OnOff::Off);
        let missing = || CommandError::NotFound(format!("there is no user {user:?}"));
        let found = directory.user(user).await?.ok_or_else(missing)?;
        let (own, system) = (directory.settings(found.settings_owner()).await?, directory.settings(0).await?);
        let key = admission::accepted_keys(&found, &own, &system, config.dialect)
            .first()
            .map(|key| Secret::from(key.text.to_owned()));
        key.ok_or_else(|| {
            CommandError::NotFound(format!("no secret key counts for {user}: `mortise key set` sets one"))
        })
    })
    .await
}
