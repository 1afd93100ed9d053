//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mortise::config::{Config, Override};
use mortise::server;

/// A request makes dozens of small allocations; the system's allocator takes a third longer over them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Mortise answers the HTTP API of the MOR billing system, on PostgreSQL.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API. Without a database_url, on a local PostgreSQL that is started and stopped along with it.
    Serve(Serve),
}

/// Every setting stands in config/mortise.toml and can be given in the environment too (MORTISE_LISTEN, DATABASE_URL, …).
#[derive(Debug, Args)]
struct Serve {
    /// Fill an empty database with a small world in which the published examples work
    #[arg(long)]
    demo: bool,
    /// The settings' file [default: config/mortise.toml, where it stands]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, as in 127.0.0.1:3000
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// documented or x7
    #[arg(long)]
    dialect: Option<String>,
    /// Where the local PostgreSQL lives
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// The PostgreSQL to use instead of a local one
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

impl Serve {
    fn overrides(&self) -> Vec<Override> {
        let given = [
            ("listen", &self.listen, "--listen"),
            ("dialect", &self.dialect, "--dialect"),
            ("data_dir", &self.data_dir, "--data-dir"),
            ("database_url", &self.database_url, "--database-url"),
        ];
        given
            .into_iter()
            .filter_map(|(name, value, option)| Some(Override::new(name, value.as_ref()?, option)))
            .collect()
    }
}

fn main() -> ExitCode {
    let Command::Serve(options) = Cli::parse().command;
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mortise: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Serve) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(options.config.as_deref(), environment(), &options.overrides())?;
    server::log(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(server::serve(config, options.demo))?)
}

/// The environment as text; what isn't is none of our settings, or a wrong one.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}
