//! The command line: commands and global options. The commands are in `src/cli/`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mortise::cli::{self, CommandError, Report};
use mortise::config::{Config, ConfigError, Layers, Override};
use mortise::server::{self, ServerError};
use mortise::telemetry::{log, log_writer};
use tokio::runtime::Runtime;

/// A request makes dozens of small allocations; the system's allocator takes a third longer for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Maximum time that the exit waits for each of: blocking calls that still run, log lines that are not written yet.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

const AFTER_HELP: &str = "\
Examples:
  mortise serve                                      run the API server with a local PostgreSQL
  mortise doctor                                     check the installation
  mortise sign card_from_group_sell id=6 quantity=2 --key-of USER
  mortise explain-hash 'http://…/api/…?u=…&hash=…'   explain why a hash is refused

Passwords and keys are typed or read from standard input; they are never arguments. Commands work while the server
runs, and without it: then a command starts the local PostgreSQL and stops it again. Each change writes a row to the
audit trail (mortise audit).

Exit codes:
  0  success
  1  failure, or a negative result: a problem found, a hash refused, a server that is not ready
  2  the command line or the settings are invalid
  3  not found: a user, a card group, a tariff, a setting
  4  the database cannot be reached, or its schema does not match the program";

/// Server for the calling-card API of the MOR billing system, on PostgreSQL.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the API server and the console; without database_url, start and stop a local PostgreSQL with them
    Serve {
        /// Fill an empty database with demo data for the examples on MOR's published pages, and start the console
        #[arg(long)]
        demo: bool,
    },
    /// Upgrade the database schema
    Migrate,
    /// Check whether the running server is ready
    Healthcheck,
    /// Print the settings in effect and their origins, without secrets
    Config(cli::config::Options),
    /// Check the installation, and print an action for each finding
    Doctor,
    /// Manage users
    #[command(subcommand)]
    User(cli::user::Command),
    /// Create resellers
    #[command(subcommand)]
    Reseller(cli::reseller::Command),
    /// Manage permission groups and their rights
    #[command(subcommand)]
    Right(cli::right::Command),
    /// List card groups
    #[command(subcommand)]
    Group(cli::group::Command),
    /// Manage the secret keys that sign requests
    #[command(subcommand)]
    Key(cli::key::Command),
    /// Manage MOR's settings in the database
    #[command(subcommand)]
    Setting(cli::setting::Command),
    /// Manage currencies and exchange rates
    #[command(subcommand)]
    Currency(cli::currency::Command),
    /// Show one card, void its sale, replace or block it
    #[command(subcommand)]
    Card(cli::card::Command),
    /// Create and export cards, and repair the stock
    #[command(subcommand)]
    Cards(cli::cards::Command),
    /// List tariffs, export and import their rates
    #[command(subcommand)]
    Tariff(cli::tariff::Command),
    /// Write a backup of the database to a new file, and check it
    Backup(cli::backup::Options),
    /// Restore a backup into an empty database, and check it
    Restore(cli::restore::Options),
    /// Show and repair the outbox of e-mails, test the mail settings
    #[command(subcommand)]
    Mail(cli::mail::Command),
    /// Report sales, taxes and stock; compare with a payment provider's list
    #[command(subcommand)]
    Report(cli::reports::Command),
    /// Sign a request as a client must sign it
    Sign(cli::sign::Options),
    /// Explain why the hash of a request is refused
    ExplainHash(cli::explain::Options),
    /// Manage the accounts of the console
    #[command(subcommand)]
    Console(cli::console::Command),
    /// Search the audit trail
    Audit(cli::audit::Options),
    /// Import the database of a MOR system into an empty Mortise, and verify it
    Import(cli::import::Options),
    /// Compare the database of a MOR system with what was imported from it
    Reconcile(cli::reconcile::Options),
}

/// Options of all commands. Every setting can also be given in the environment (`MORTISE_LISTEN`, `DATABASE_URL`, …).
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct GlobalOptions {
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
    /// Settings file [default: config/mortise.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port of the API: 127.0.0.1:3000
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// API dialect: documented or x7
    #[arg(long, global = true)]
    dialect: Option<String>,
    /// Directory of the local PostgreSQL
    #[arg(long, global = true, value_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// PostgreSQL database to use instead of a local one
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
}

impl GlobalOptions {
    fn read_layers(&self) -> Result<Layers, ConfigError> {
        Layers::read(self.config.as_deref(), environment(), &self.overrides())
    }

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
    if std::process::id() == 1 {
        return server::init::run().unwrap_or_else(|error| {
            eprintln!("mortise: cannot run as process 1: {error}");
            ExitCode::FAILURE
        });
    }
    if let Err(error) = remove_pgoptions() {
        eprintln!("mortise: cannot restart without the variable PGOPTIONS: {error}");
        return ExitCode::FAILURE;
    }
    let Cli { command, global } = Cli::parse();
    let result = match command {
        Command::Serve { demo } => serve(&global, demo).map(|()| ExitCode::SUCCESS),
        command => run(&command, &global).and_then(|report| {
            let lost = match report.is_success() {
                true => "the command was carried out, but its output is lost",
                false => "the output of the command is lost",
            };
            report.print(global.json).map_err(|error| CommandError::Failed(format!("{lost}: {error}")))
        }),
    };
    let exit_code = result.unwrap_or_else(|error| {
        log_writer::print_error(&error);
        error.exit_code()
    });
    log_writer::flush(EXIT_TIMEOUT);
    exit_code
}

/// Replaces this program by itself without the variable PGOPTIONS. The database library adds the variable to the
/// settings of each session, and has no option to ignore it.
fn remove_pgoptions() -> std::io::Result<()> {
    if std::env::var_os("PGOPTIONS").is_none() {
        return Ok(());
    }
    let program = std::env::current_exe()?;
    Err(std::process::Command::new(program).args(std::env::args_os().skip(1)).env_remove("PGOPTIONS").exec())
}

fn serve(global: &GlobalOptions, demo: bool) -> Result<(), CommandError> {
    let config = global.read_layers()?.config()?;
    log::init(&config)?;
    let runtime = build_runtime()?;
    let result = runtime.block_on(server::serve(config, demo));
    // Without a timeout, the exit would wait for blocking calls: a DNS lookup, a write to standard output.
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    result.map_err(|error| match error {
        ServerError::Managed(error) => error.into(),
        ServerError::Database(error) => error.into(),
        ServerError::Io(error) => error.into(),
        ServerError::Mail(error) => CommandError::Usage(error.to_string()),
        ServerError::Console(error) if error.is_setting() => CommandError::Usage(error.to_string()),
        error => CommandError::Failed(error.to_string()),
    })
}

fn run(command: &Command, global: &GlobalOptions) -> Result<Report, CommandError> {
    let runtime = build_runtime()?;
    let result = run_in(&runtime, command, global);
    // Without waiting for blocking calls: a signal can end the command while it waits for an answer.
    runtime.shutdown_background();
    result
}

fn run_in(runtime: &Runtime, command: &Command, global: &GlobalOptions) -> Result<Report, CommandError> {
    let layers = global.read_layers();
    if let Command::Doctor = command {
        log::init_for_command();
        return Ok(runtime.block_on(cli::doctor::run(layers, global.listen.is_some())));
    }
    let layers = layers?;
    let config = cli::with_running_address(layers.config()?, global.listen.is_some());
    match command {
        Command::Config(options) => return Ok(cli::config::run(options, &layers)),
        Command::Healthcheck => return runtime.block_on(cli::healthcheck::run(&config)),
        _ => log::init_for_command(),
    }
    runtime.block_on(run_on_database(command, &config, global.json))
}

async fn run_on_database(command: &Command, config: &Config, as_json: bool) -> Result<Report, CommandError> {
    match command {
        Command::Migrate => cli::migrate::run(config).await,
        Command::User(command) => cli::user::run(command, config).await,
        Command::Reseller(command) => cli::reseller::run(command, config).await,
        Command::Right(command) => cli::right::run(command, config).await,
        Command::Group(command) => cli::group::run(command, config).await,
        Command::Key(command) => cli::key::run(command, config).await,
        Command::Setting(command) => cli::setting::run(command, config).await,
        Command::Currency(command) => cli::currency::run(command, config).await,
        Command::Card(command) => cli::card::run(command, config).await,
        Command::Cards(command) => cli::cards::run(command, config).await,
        Command::Tariff(command) => cli::tariff::run(command, config).await,
        Command::Backup(options) => cli::backup::run(options, config).await,
        Command::Restore(options) => cli::restore::run(options, config).await,
        Command::Mail(command) => cli::mail::run(command, config).await,
        Command::Report(command) => cli::reports::run(command, config).await,
        Command::Sign(options) => cli::sign::run(options, config).await,
        Command::ExplainHash(options) => cli::explain::run(options, config).await,
        Command::Console(command) => cli::console::run(command, config).await,
        Command::Audit(options) => cli::audit::run(options, config).await,
        Command::Import(options) => cli::import::run(options, config, as_json).await,
        Command::Reconcile(options) => cli::reconcile::run(options, config, as_json).await,
        Command::Serve { .. } | Command::Healthcheck | Command::Config(_) | Command::Doctor => Ok(Report::empty()),
    }
}

fn build_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Returns the environment as text. Invalid UTF-8 is replaced: no valid setting contains it.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}
