//! Layers of settings: defaults, settings file, environment, options. A later layer overrides the earlier ones.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use toml::{Table, Value};

use super::{Config, ConfigError, DEFAULTS, SECRET_SETTINGS};
use crate::input;

/// The settings file that is read without `--config`, if it exists in the working directory.
const CONFIG_FILE_DEFAULT: &str = "config/mortise.toml";

/// A setting given as text in the environment or on the command line: name, value and origin.
#[derive(Clone)]
pub struct Override {
    name: String,
    value: String,
    origin: String,
}

impl Override {
    /// Creates an override. `origin` is the variable or option, as the operator wrote it.
    pub fn new(name: &str, value: &str, origin: &str) -> Self {
        Self { name: name.into(), value: value.into(), origin: origin.into() }
    }
}

/// The settings in effect and their origins.
#[derive(Clone)]
pub struct Layers {
    table: Table,
    origins: BTreeMap<String, String>,
}

/// A setting in effect.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct EffectiveSetting<'a> {
    pub name: &'a str,
    /// `None` for a secret that is set.
    pub value: Option<&'a Value>,
    /// A file, a variable or an option, or `default`.
    pub origin: &'a str,
}

/// A setting in effect, as text for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "as in `EffectiveSetting`")]
pub struct ShownSetting {
    pub name: String,
    /// As in a settings file. `None` for a secret that is set.
    pub value: Option<String>,
    pub origin: String,
    /// The comment of the setting in `config/mortise.toml`.
    pub description: String,
}

impl ShownSetting {
    fn new(setting: EffectiveSetting<'_>) -> Self {
        Self {
            name: setting.name.to_owned(),
            value: setting.value.map(Value::to_string),
            origin: setting.origin.to_owned(),
            description: find_description(setting.name),
        }
    }
}

/// Returns the comment before a setting in the file of defaults, as one paragraph.
fn find_description(name: &str) -> String {
    let mut comment = Vec::new();
    for line in DEFAULTS.lines() {
        match line.strip_prefix('#') {
            Some(text) => comment.push(text.trim()),
            None if line.split_once('=').is_some_and(|(setting, _)| setting.trim() == name) => break,
            None => comment.clear(),
        }
    }
    comment.join(" ")
}

impl Layers {
    /// Reads all layers. The settings file is `file`, else `config/mortise.toml` in the working directory if it exists.
    pub fn read(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        options: &[Override],
    ) -> Result<Self, ConfigError> {
        let default_path = Path::new(CONFIG_FILE_DEFAULT);
        let mut layers = Self { table: parse_table(DEFAULTS, default_path)?, origins: BTreeMap::new() };
        if let Some(path) = file.or_else(|| default_path.exists().then_some(default_path)) {
            let text = read_file(path)?;
            for (name, value) in parse_table(&text, path)? {
                layers.put(&name, value, &path.display().to_string())?;
            }
        }
        for setting in overrides_from_env(environment)?.iter().chain(options) {
            let default = layers.table.get(&setting.name).ok_or_else(|| setting.unknown_error())?;
            let value = coerce_type(default, setting)?;
            layers.put(&setting.name, value, &setting.origin)?;
        }
        Ok(layers)
    }

    /// Checks all settings and returns them as [`Config`].
    pub fn config(&self) -> Result<Config, ConfigError> {
        let config: Result<Config, toml::de::Error> = Value::Table(self.table.clone()).try_into();
        let config = config
            .map_err(|error| ConfigError::Malformed { path: "settings".into(), message: error.message().to_owned() })?;
        Ok(Config { in_effect: self.settings().map(ShownSetting::new).collect(), ..config })
    }

    /// Returns all settings in the order of their names, without the values of secrets.
    pub fn settings(&self) -> impl Iterator<Item = EffectiveSetting<'_>> {
        self.table.iter().map(|(name, value)| {
            let is_hidden = SECRET_SETTINGS.contains(&name.as_str()) && value.as_str() != Some("");
            let origin = self.origins.get(name).map_or("default", String::as_str);
            EffectiveSetting { name, value: (!is_hidden).then_some(value), origin }
        })
    }

    /// Sets one setting and checks all of them, so that the error names this setting and its origin.
    fn put(&mut self, name: &str, value: Value, origin: &str) -> Result<(), ConfigError> {
        if !self.table.contains_key(name) {
            return Err(ConfigError::Unknown(format!("{name} (in {origin})")));
        }
        let invalid_error =
            |problem| ConfigError::Invalid { name: name.to_owned(), origin: origin.to_owned(), problem };
        // Spaces, tabs and line ends may separate the parts of a list.
        let visible_part = |text: &str| text.replace(|char: char| char.is_ascii_whitespace(), ",");
        if let Some(invisible) = value.as_str().and_then(|text| input::find_invisible(&visible_part(text))) {
            return Err(invalid_error(format!("has {invisible}")));
        }
        self.table.insert(name.to_owned(), value);
        self.origins.insert(name.to_owned(), origin.to_owned());
        let config = Value::Table(self.table.clone()).try_into::<Config>();
        config.map(drop).map_err(|error| invalid_error(format!("is invalid: {}", error.message())))
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
    input::read_file(path).map_err(|source| ConfigError::Unreadable { path: path.into(), source })
}

/// Parses a settings file. The error gives the line's number and does not quote the line: it can contain a password.
fn parse_table(text: &str, path: &Path) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::Malformed { path: path.into(), message: format!("line {line}: {}", error.message()) }
    })
}

/// Converts the text of `setting` to the type of its default: a number, a boolean or text.
fn coerce_type(default: &Value, setting: &Override) -> Result<Value, ConfigError> {
    match default {
        Value::Integer(_) => setting
            .value
            .trim()
            .parse()
            .map(Value::Integer)
            .map_err(|_| setting.invalid_error(format!("must be a whole number, not {:?}", setting.value))),
        Value::Boolean(_) => setting
            .value
            .trim()
            .parse()
            .map(Value::Boolean)
            .map_err(|_| setting.invalid_error(format!("must be true or false, not {:?}", setting.value))),
        _ => Ok(Value::String(setting.value.clone())),
    }
}

/// Returns the settings in `MORTISE_NAME` and `DATABASE_URL`, both also with the suffix `_FILE`. They are sorted by
/// variable: the result does not depend on the order of the environment.
fn overrides_from_env(variables: impl Iterator<Item = (String, String)>) -> Result<Vec<Override>, ConfigError> {
    let mut overrides = Vec::new();
    for (variable, value) in variables {
        let name = match variable.strip_prefix("MORTISE_") {
            Some(name) => name.to_ascii_lowercase(),
            None if matches!(variable.as_str(), "DATABASE_URL" | "DATABASE_URL_FILE") => variable.to_ascii_lowercase(),
            None => continue,
        };
        overrides.push(match name.strip_suffix("_file") {
            Some(name) => Override::new(name, read_file(Path::new(&value))?.trim_ascii_end(), &variable),
            None => Override::new(&name, &value, &variable),
        });
    }
    overrides.sort_by(|a, b| a.origin.cmp(&b.origin));
    Ok(overrides)
}
