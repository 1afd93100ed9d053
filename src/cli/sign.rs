//! `mortise sign`: signs a request as a client must sign it, to compare with a client's hash.

use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::database::with_database;
use super::healthcheck::loopback_if_unspecified;
use super::{CommandError, Report};
use crate::accounts::AccountCache;
use crate::auth::admission;
use crate::auth::signature::SignedParams;
use crate::back_office::hash_explanation::operation_not_found;
use crate::config::{Config, OnOff};
use crate::http::context::Operation;
use crate::http::params::Params;
use crate::operations;

/// The characters to escape in a form: all but letters, digits and `-._~`.
const FORM_ENCODE_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The request to sign.
#[derive(Debug, Args)]
pub struct Options {
    /// The operation, by its name or an alias: card_from_group_sell
    operation: String,
    /// The parameters, unescaped: id=6 quantity=2
    #[arg(value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// The user whose key signs [default: the parameter u]
    #[arg(long, value_name = "USER")]
    key_of: Option<String>,
}

/// Reports the text that is hashed, the hash, and a `curl` command with the request.
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let operation = find_operation(&options.operation)?;
    let form = encode_form(options)?;
    let params =
        Params::read(None, &form, &Default::default(), Default::default(), config.max_parameters.get()).await?;
    let user = options.key_of.as_deref().or(params.get("u"));
    let user = user.ok_or_else(|| CommandError::Usage("a user is missing: give --key-of USER or u=USER".to_owned()))?;
    let key = find_signing_key(user, config).await?;
    let signed: Vec<SignedParams<'_>> =
        operation.hash_rules.iter().flat_map(|rule| rule.signed_params(&params, &options.operation)).collect();
    let signed = signed.first().ok_or_else(|| CommandError::failed("this request has no hash"))?;
    let hash = hex::encode(signed.digest(key.expose_secret()));
    let request = match params.get("u") {
        Some(_) => format!("{form}&hash={hash}"),
        None => format!("u={}&{form}&hash={hash}", percent_encode(user)).replace("&&", "&"),
    };
    let url = format!("http://{}{}/api/{}", loopback_if_unspecified(config.listen), config.prefix, options.operation);
    let (names, hash_input) = (signed.joined_names(), signed.masked_input());
    let unsigned: Vec<&str> = params
        .names()
        .filter(|name| !matches!(*name, "u" | "p" | "hash") && signed.values().all(|(signed, _)| signed != *name))
        .collect();
    let mut text = format!("parameters  {names}\nhashed      {hash_input}\nhash        {hash}\n");
    if !unsigned.is_empty() {
        text += &format!("not hashed  {}\n", unsigned.join(", "));
    }
    let curl = format!("curl -d '{request}' {url}");
    text += &format!("\n{curl}");
    let json = json!({ "parameters": names, "hashed": hash_input, "hash": hash, "not_hashed": unsigned, "curl": curl });
    Ok(Report::new(text, json))
}

/// Finds an operation by its name or an alias.
fn find_operation(name: &str) -> Result<&'static Operation, CommandError> {
    operations::find(name).map(|(operation, _)| operation).ok_or_else(|| operation_not_found(name).into())
}

/// Encodes the parameters as a form.
fn encode_form(options: &Options) -> Result<String, CommandError> {
    let encode_pair = |parameter: &String| {
        let (name, value) = parameter.split_once('=')?;
        Some(format!("{}={}", percent_encode(name), percent_encode(value)))
    };
    let pairs: Option<Vec<String>> = options.parameters.iter().map(encode_pair).collect();
    let pairs = pairs
        .ok_or_else(|| CommandError::Usage("parameters must have the form NAME=VALUE, such as id=6".to_owned()))?;
    Ok(pairs.join("&"))
}

fn percent_encode(text: &str) -> String {
    utf8_percent_encode(text, FORM_ENCODE_SET).to_string()
}

/// Returns the first valid key of a user.
async fn find_signing_key(name: &str, config: &Config) -> Result<SecretString, CommandError> {
    with_database(config, async |pool| {
        let accounts = AccountCache::new(pool.clone().into(), OnOff::Off);
        let not_found = || CommandError::NotFound(format!("there is no user {name:?}"));
        let user = accounts.user(name).await?.ok_or_else(not_found)?;
        let (own, system) = (accounts.settings(user.settings_owner()).await?, accounts.settings(0).await?);
        let key = admission::accepted_keys(&user, &own, &system, config.dialect)
            .first()
            .map(|key| SecretString::from(key.text));
        key.ok_or_else(|| CommandError::NotFound(format!("{name} has no valid secret key: use `mortise key set`")))
    })
    .await
}
