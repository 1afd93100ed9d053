//! What operators use: commands, settings, documents, packages, dashboards, logs and traces.

pub mod commands;
mod config;
mod contrib;
mod demo;
mod docs;
mod input;
mod log;
mod packages;
mod scripts;
#[cfg(target_os = "linux")]
mod stalled_output;
mod trace;
