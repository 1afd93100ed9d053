//! `mortise config`: prints the settings in effect.

use clap::Args;
use serde_json::{Map, Value, json};

use super::Report;
use crate::config::{DEFAULTS, EffectiveSetting, Layers};

/// Options of `mortise config`.
#[derive(Debug, Args)]
pub struct Options {
    /// Print the commented file of all defaults instead, as a start for your own
    #[arg(long)]
    defaults: bool,
}

/// Reports all settings in effect as a settings file, with their origins.
pub fn run(options: &Options, layers: &Layers) -> Report {
    if options.defaults {
        return Report::new(DEFAULTS, DEFAULTS);
    }
    let settings: Vec<EffectiveSetting<'_>> = layers.settings().collect();
    let lines: Vec<String> = settings.iter().map(format_setting).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).min(60);
    let text: Vec<String> =
        lines.iter().zip(&settings).map(|(line, setting)| format!("{line:width$}  # {}", setting.origin)).collect();
    let json: Map<String, Value> = settings.iter().map(setting_to_json).collect();
    Report::new(text.join("\n"), json)
}

/// Formats a line of the output. A secret is commented out, not replaced: the output must stay a valid settings file.
fn format_setting(setting: &EffectiveSetting<'_>) -> String {
    match setting.value {
        Some(value) => format!("{} = {value}", setting.name),
        None => format!("# {} = (hidden)", setting.name),
    }
}

fn setting_to_json(setting: &EffectiveSetting<'_>) -> (String, Value) {
    let value = json!({ "value": setting.value, "hidden": setting.value.is_none(), "from": setting.origin });
    (setting.name.to_owned(), value)
}
