//! PostgreSQL's own programs for backups: `pg_dump` and `pg_restore`.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx_core::Url;
use tokio::io::AsyncReadExt;
use tokio::process::Child;

use crate::back_office::BackOfficeError;
use crate::managed_postgres::installation::{build_command, find_client_program};

/// In bytes of the messages of a program. The rest is dropped.
const MESSAGES_LEN_MAX: u64 = 64 * 1024;
/// The variables that name files. The programs run in another directory.
const FILES: [&str; 4] = ["PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGPASSFILE"];
/// The value of `PGSSLROOTCERT` for the certificates that the system trusts. libpq knows it from version 16 on.
const SYSTEM_ROOTS: &str = "system";
/// Maximum number of messages in an error.
const MESSAGES_MAX: usize = 5;

/// The variables of libpq with which the programs connect. The password is in none of their arguments, which every user
/// of the machine can read.
#[derive(Debug)]
pub struct ClientEnvironment {
    variables: Vec<(&'static str, OsString)>,
    password: Option<SecretString>,
}

impl ClientEnvironment {
    /// The environment for a database that these options name, with its password.
    pub fn new(options: &PgConnectOptions, password: Option<SecretString>) -> Self {
        let host = match options.get_socket() {
            Some(socket) => socket.into(),
            // sqlx keeps the brackets of an IPv6 address, which libpq takes for a part of the name.
            None => options.get_host().trim_start_matches('[').trim_end_matches(']').into(),
        };
        let ssl_mode = match options.get_ssl_mode() {
            PgSslMode::Disable => "disable",
            PgSslMode::Allow => "allow",
            PgSslMode::Prefer => "prefer",
            PgSslMode::Require => "require",
            PgSslMode::VerifyCa => "verify-ca",
            PgSslMode::VerifyFull => "verify-full",
        };
        let user = options.get_username();
        let mut variables = vec![
            ("PGHOST", host),
            ("PGPORT", options.get_port().to_string().into()),
            ("PGUSER", user.into()),
            ("PGDATABASE", options.get_database().unwrap_or(user).into()),
            ("PGSSLMODE", ssl_mode.into()),
            ("PGAPPNAME", "mortise backup".into()),
        ];
        variables.extend(options.get_options().map(|options| ("PGOPTIONS", options.into())));
        Self { variables, password }
    }

    /// The environment for the database of a URL, whose options are `options`. As in libpq, the password may also come
    /// from the variable PGPASSWORD or the password file.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] if the URL is invalid. The message does not contain it.
    pub fn from_url(url: &str, options: &PgConnectOptions) -> Result<Self, BackOfficeError> {
        let url: Url = url.parse().map_err(|_| BackOfficeError::refused("database_url is invalid"))?;
        let parameter = |names: &[&str]| {
            let mut pairs = url.query_pairs();
            pairs.find(|(name, _)| names.contains(&name.as_ref())).map(|(_, value)| value.into_owned())
        };
        let in_authority = url.password().map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
        let password = parameter(&["password"]).or(in_authority);
        let mut environment = Self::new(options, password.map(SecretString::from));
        for (variable, names) in [
            ("PGSSLROOTCERT", &["sslrootcert", "ssl-root-cert", "ssl-ca"][..]),
            ("PGSSLCERT", &["sslcert", "ssl-cert"]),
            ("PGSSLKEY", &["sslkey", "ssl-key"]),
            ("PGPASSWORD", &[]),
            ("PGPASSFILE", &[]),
            ("HOME", &[]),
        ] {
            let value = parameter(names).map(OsString::from).or_else(|| std::env::var_os(variable));
            let value = match value {
                Some(value) if FILES.contains(&variable) && !value.is_empty() && value != *SYSTEM_ROOTS => {
                    let path = std::path::absolute(&value).map_err(|error| {
                        BackOfficeError::refused(format!("cannot find the file of {variable}: {error}"))
                    })?;
                    Some(path.into_os_string())
                }
                // sqlx trusts the system's certificates then, libpq those of a file that usually does not exist.
                None if variable == "PGSSLROOTCERT" && matches!(options.get_ssl_mode(), PgSslMode::VerifyFull) => {
                    Some(SYSTEM_ROOTS.into())
                }
                value => value,
            };
            environment.variables.extend(value.map(|value| (variable, value)));
        }
        Ok(environment)
    }

    fn apply(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(self.password.as_ref().map(|password| ("PGPASSWORD", password.expose_secret())));
    }
}

/// The programs, of the server's major version: a newer `pg_restore` sets parameters that an older server does not
/// know.
#[derive(Debug)]
pub(super) struct Programs {
    pg_dump: PathBuf,
    pg_restore: PathBuf,
}

impl Programs {
    /// Finds the programs for a server of this major version.
    pub async fn find(server_version: u32) -> Result<Self, BackOfficeError> {
        let find = async |name: &str| {
            find_client_program(name, server_version).await.map_err(|installed| {
                let found = if installed.is_empty() {
                    "none is installed".to_owned()
                } else {
                    let versions: Vec<String> = installed.iter().map(u32::to_string).collect();
                    format!("installed: {}", versions.join(", "))
                };
                BackOfficeError::refused(format!(
                    "the server is PostgreSQL {server_version} and needs {name} of the same major version; {found}. \
                     Install it, for example with `apt-get install postgresql-client-{server_version}`"
                ))
            })
        };
        Ok(Self { pg_dump: find("pg_dump").await?, pg_restore: find("pg_restore").await? })
    }

    /// Writes a dump of the snapshot to the file.
    pub async fn dump(
        &self,
        environment: &ClientEnvironment,
        snapshot: &str,
        file: &File,
    ) -> Result<(), BackOfficeError> {
        let mut command = build_command(&self.pg_dump, None);
        command.args(["--format=custom", "--no-password"]).arg(format!("--snapshot={snapshot}"));
        environment.apply(&mut command);
        command.stdout(file.try_clone().map_err(|error| start_error(&self.pg_dump, &error))?);
        finish("pg_dump", spawn(&self.pg_dump, command)?).await
    }

    /// Restores the file in one transaction. Roles of the other server may not exist here: owners and grants are left
    /// out.
    pub async fn restore(&self, environment: &ClientEnvironment, file: &File) -> Result<(), BackOfficeError> {
        let mut command = build_command(&self.pg_restore, None);
        command.args(["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", "--no-password"]);
        // Those of the other database: a second subscriber would take the changes of the first one.
        command.args(["--no-publications", "--no-subscriptions"]);
        // An empty name: that of the variable PGDATABASE.
        command.arg("--dbname=");
        environment.apply(&mut command);
        command.stdout(Stdio::null()).stdin(file.try_clone().map_err(|error| start_error(&self.pg_restore, &error))?);
        finish("pg_restore", spawn(&self.pg_restore, command)?).await
    }

    /// Starts the program that prints the data of the file as a script.
    pub fn print_data(&self, file: &File) -> Result<Child, BackOfficeError> {
        let mut command = build_command(&self.pg_restore, None);
        command.args(["--data-only", "--file=-"]).stdout(Stdio::piped());
        command.stdin(file.try_clone().map_err(|error| start_error(&self.pg_restore, &error))?);
        spawn(&self.pg_restore, command)
    }
}

fn spawn(program: &Path, mut command: Command) -> Result<Child, BackOfficeError> {
    command.stderr(Stdio::piped());
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
    child.map_err(|error| start_error(program, &error))
}

fn start_error(program: &Path, error: &std::io::Error) -> BackOfficeError {
    BackOfficeError::refused(format!("cannot start {}: {error}", program.display()))
}

/// Waits for the end of a program. The error has its first messages, without the details, which can quote rows.
pub(super) async fn finish(name: &str, mut child: Child) -> Result<(), BackOfficeError> {
    let mut messages = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut start = stderr.take(MESSAGES_LEN_MAX);
        let read = async {
            start.read_to_end(&mut messages).await?;
            tokio::io::copy(&mut start.into_inner(), &mut tokio::io::sink()).await
        };
        read.await.map_err(|error| BackOfficeError::refused(format!("cannot read the messages of {name}: {error}")))?;
    }
    let status = child.wait().await;
    let status = status.map_err(|error| BackOfficeError::refused(format!("cannot wait for {name}: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&messages);
    let prefix = format!("{name}: ");
    let messages: Vec<&str> =
        messages.lines().filter_map(|line| line.strip_prefix(&prefix)).take(MESSAGES_MAX).collect();
    let messages = if messages.is_empty() { status.to_string() } else { messages.join("; ") };
    Err(BackOfficeError::refused(format!("{name} failed: {messages}")))
}
