//! The layers of settings: the defaults, the operator's file, the environment, options. Each goes before the one under it.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::{Config, ConfigError, DEFAULTS, SECRET_SETTINGS};

/// Read where it stands in the working directory, when no file is named.
const CONFIG_FILE_DEFAULT: &str = "config/mortise.toml";

/// A setting given as text, by the environment or the command line: its name, its value, and who said so.
#[derive(Clone)]
pub struct Override {
    name: String,
    value: String,
    origin: String,
}

impl Override {
    /// `origin` is what the operator would look for: a variable's name, an option.
    pub fn new(name: &str, value: &str, origin: &str) -> Self {
        Self { name: name.into(), value: value.into(), origin: origin.into() }
    }
}

/// The settings in effect, and where each comes from.
#[derive(Clone)]
pub struct Layers {
    table: Table,
    origins: BTreeMap<String, String>,
}

/// A setting in effect.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct EffectiveSetting<'a> {
    pub name: &'a str,
    /// `None`: it is a secret, and set.
    pub value: Option<&'a Value>,
    /// A file, a variable, an option; or `default`.
    pub origin: &'a str,
}

impl Layers {
    /// Lays the operator's file (`file`, else the usual one where it stands), `environment` and `options` over the defaults.
    pub fn read(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        options: &[Override],
    ) -> Result<Self, ConfigError> {
        let usual = Path::new(CONFIG_FILE_DEFAULT);
        let mut layers = Self { table: parse_table(DEFAULTS, usual)?, origins: BTreeMap::new() };
        if let Some(path) = file.or_else(|| usual.exists().then_some(usual)) {
            let text = read_file(path)?;
            for (name, value) in parse_table(&text, path)? {
                layers.put(&name, value, &path.display().to_string())?;
            }
        }
        for given in overrides_from_env(environment)?.iter().chain(options) {
            let known = layers.table.get(&given.name).ok_or_else(|| given.unknown_error())?;
            let value = coerce_type(known, given)?;
            layers.put(&given.name, value, &given.origin)?;
        }
        Ok(layers)
    }

    /// All of it, as the program takes it.
    pub fn config(&self) -> Result<Config, ConfigError> {
        Value::Table(self.table.clone()).try_into().map_err(|error: toml::de::Error| ConfigError::Malformed {
            path: "settings".into(),
            message: error.message().to_owned(),
        })
    }

    /// Every setting by its name, without the secrets.
    pub fn settings(&self) -> impl Iterator<Item = EffectiveSetting<'_>> {
        self.table.iter().map(|(name, value)| {
            let hidden = SECRET_SETTINGS.contains(&name.as_str()) && value.as_str() != Some("");
            let origin = self.origins.get(name).map_or("default", String::as_str);
            EffectiveSetting { name, value: (!hidden).then_some(value), origin }
        })
    }

    /// Sets one setting, checked by itself so that the message names it and where it came from.
    fn put(&mut self, name: &str, value: Value, origin: &str) -> Result<(), ConfigError> {
        if !self.table.contains_key(name) {
            return Err(ConfigError::Unknown(format!("{name} (in {origin})")));
        }
        self.table.insert(name.to_owned(), value);
        self.origins.insert(name.to_owned(), origin.to_owned());
        Value::Table(self.table.clone()).try_into::<Config>().map(drop).map_err(|error| ConfigError::Invalid {
            name: name.to_owned(),
            origin: origin.to_owned(),
            problem: format!("doesn't fit: {}", error.message()),
        })
    }
}

impl Override {
    fn unknown_error(&self) -> ConfigError {
        ConfigError::Unknown(self.origin.clone())
    }

    fn invalid_error(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { name: self.name.clone(), origin: self.origin.clone(), problem: problem.into() }
    }
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.into(), source })
}

/// The error names the line and doesn't quote it: a password may stand there.
fn parse_table(text: &str, path: &Path) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::Malformed { path: path.into(), message: format!("line {line}: {}", error.message()) }
    })
}

/// Text becomes what the setting's default is: a number, a truth value or text.
fn coerce_type(known: &Value, given: &Override) -> Result<Value, ConfigError> {
    match known {
        Value::Integer(_) => given
            .value
            .trim()
            .parse()
            .map(Value::Integer)
            .map_err(|_| given.invalid_error(format!("wants a whole number, not {:?}", given.value))),
        Value::Boolean(_) => given
            .value
            .trim()
            .parse()
            .map(Value::Boolean)
            .map_err(|_| given.invalid_error(format!("wants true or false, not {:?}", given.value))),
        _ => Ok(Value::String(given.value.clone())),
    }
}

/// `MORTISE_KEY`, `DATABASE_URL`, and both with `_FILE` behind them; by name, so that the order is always the same.
fn overrides_from_env(variables: impl Iterator<Item = (String, String)>) -> Result<Vec<Override>, ConfigError> {
    let mut found = Vec::new();
    for (variable, value) in variables {
        let name = match variable.strip_prefix("MORTISE_") {
            Some(key) => key.to_ascii_lowercase(),
            None if matches!(variable.as_str(), "DATABASE_URL" | "DATABASE_URL_FILE") => variable.to_ascii_lowercase(),
            None => continue,
        };
        found.push(match name.strip_suffix("_file") {
            Some(name) => Override::new(name, read_file(Path::new(&value))?.trim_end(), &variable),
            None => Override::new(&name, &value, &variable),
        });
    }
    found.sort_by(|one, other| one.origin.cmp(&other.origin));
    Ok(found)
}
