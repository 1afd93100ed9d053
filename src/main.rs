//! The command line: its table of contents. What each command does stands in `src/admin/`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mortise::cli::{self, CommandError, Report};
use mortise::config::{Config, ConfigError, Layers, Override};
use mortise::server::{self, ServerError};
use mortise::telemetry::log;

/// A request makes dozens of small allocations; the system's allocator takes a third longer over them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const AFTER_HELP: &str = "\
Begin with:
  mortise serve                                      the API, on a PostgreSQL of its own
  mortise doctor                                     is everything as it should be?
  mortise sign card_from_group_sell id=6 quantity=2 --key-of USER
  mortise explain-hash 'http://…/api/…?u=…&hash=…'   why is this refused?

Passwords and keys are typed, or read from standard input; they are never arguments. A command works beside a running server,
and without one: then the local PostgreSQL is started for as long as it takes. Whatever a command changes stands in the audit
trail (mortise audit).

Ends with:
  0  done, and the answer is yes
  1  it couldn't be done, or the answer is no: a problem found, a hash refused, a server that isn't ready
  2  the command line or the settings make no sense
  3  what is named isn't there
  4  the database can't be reached, or isn't up to date";

/// Mortise answers the HTTP API of the MOR billing system, on PostgreSQL.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: GlobalOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API; without a database_url, on a local PostgreSQL that is started and stopped along with it
    Serve {
        /// Fill an empty database with a small world in which the published examples work
        #[arg(long)]
        demo: bool,
    },
    /// Bring the database's schema up to date
    Migrate,
    /// Ask the running server whether it can serve
    Healthcheck,
    /// Print the settings in effect, and where each comes from; secrets are hidden
    Config(cli::config::Options),
    /// Look at everything that can be wrong, and say what to do
    Doctor,
    /// Users: who may ask
    #[command(subcommand)]
    User(cli::user::Command),
    /// Permission groups: what users may do
    #[command(subcommand)]
    Right(cli::right::Command),
    /// Card groups
    #[command(subcommand)]
    Group(cli::group::Command),
    /// Secret keys: what requests are signed with
    #[command(subcommand)]
    Key(cli::key::Command),
    /// MOR's settings, which live in the database
    #[command(subcommand)]
    Setting(cli::setting::Command),
    /// Currencies and their rates
    #[command(subcommand)]
    Currency(cli::currency::Command),
    /// Cards, by the thousand
    #[command(subcommand)]
    Cards(cli::cards::Command),
    /// Sign a request as a client has to
    Sign(cli::sign::Options),
    /// Say why a request's hash is refused, and what would be right
    ExplainHash(cli::explain::Options),
    /// Search the audit trail
    Audit(cli::audit::Options),
}

/// Every setting stands in config/mortise.toml and can be given in the environment too (MORTISE_LISTEN, DATABASE_URL, …).
#[derive(Debug, Args)]
struct GlobalOptions {
    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
    /// The settings' file [default: config/mortise.toml, where it stands]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, as in 127.0.0.1:3000
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// documented or x7
    #[arg(long, global = true)]
    dialect: Option<String>,
    /// Where the local PostgreSQL lives
    #[arg(long, global = true, value_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// The PostgreSQL to use instead of a local one
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
    let Cli { command, options: settings } = Cli::parse();
    let ended = match command {
        Command::Serve { demo } => serve(&settings, demo).map(|()| ExitCode::SUCCESS),
        command => run(&command, &settings).and_then(|report| Ok(report.print(settings.json)?)),
    };
    ended.unwrap_or_else(|failure| {
        eprintln!("mortise: {failure}");
        failure.exit_code()
    })
}

fn serve(settings: &GlobalOptions, demo: bool) -> Result<(), CommandError> {
    let config = settings.read_layers()?.config()?;
    log::init(&config);
    let served = build_runtime()?.block_on(server::serve(config, demo));
    served.map_err(|error| match error {
        ServerError::Managed(error) => error.into(),
        ServerError::Database(error) => error.into(),
        ServerError::Io(error) => error.into(),
        ServerError::Mail(error) => CommandError::Usage(error.to_string()),
        error => CommandError::Failed(error.to_string()),
    })
}

fn run(command: &Command, settings: &GlobalOptions) -> Result<Report, CommandError> {
    let layers = settings.read_layers();
    let runtime = build_runtime()?;
    if let Command::Doctor = command {
        log::init_for_command();
        return Ok(runtime.block_on(cli::doctor::run(layers)));
    }
    let layers = layers?;
    let config = layers.config()?;
    match command {
        Command::Config(options) => return Ok(cli::config::run(options, &layers)),
        Command::Healthcheck => return cli::healthcheck::run(&config),
        _ => log::init_for_command(),
    }
    runtime.block_on(run_on_database(command, &config))
}

async fn run_on_database(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Migrate => cli::migrate::run(config).await,
        Command::User(command) => cli::user::run(command, config).await,
        Command::Right(command) => cli::right::run(command, config).await,
        Command::Group(command) => cli::group::run(command, config).await,
        Command::Key(command) => cli::key::run(command, config).await,
        Command::Setting(command) => cli::setting::run(command, config).await,
        Command::Currency(command) => cli::currency::run(command, config).await,
        Command::Cards(command) => cli::cards::run(command, config).await,
        Command::Sign(options) => cli::sign::run(options, config).await,
        Command::ExplainHash(options) => cli::explain::run(options, config).await,
        Command::Audit(options) => cli::audit::run(options, config).await,
        Command::Serve { .. } | Command::Healthcheck | Command::Config(_) | Command::Doctor => Ok(Report::empty()),
    }
}

fn build_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// The environment as text; what isn't is none of our settings, or a wrong one.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}
