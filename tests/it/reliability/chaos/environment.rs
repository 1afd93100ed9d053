//! The environments of the tests: a server process with a PostgreSQL that it manages, or with an external one behind a
//! proxy that can cut the connections.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use mortise::managed_postgres::{self, installation, os_user};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};

use crate::harness::process::{self, ServerProcess};
use crate::harness::proxy::FaultProxy;
use crate::harness::smtp::MailServer;

/// Added to the demo data: card groups whose tax leaves no remainder, users with a device and a caller id, and a
/// sequence for the stock.
const EXTRA_FIXTURES_SQL: &str = "
    insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1');
    insert into taxes (id, tax1_enabled, tax1_value) values (70, 1, 25);
    insert into cardgroups (id, name, price, tax_id, tell_balance_in_currency, number_length, pin_length)
    values (70, 'sold', 8, 70, 'USD', 12, 12), (71, 'created', 8, 70, 'USD', 12, 12);
    insert into users (id, username, usertype, owner_id, tax_id)
    select 700 + i, 'user' || i, 'user', 0, 70 from generate_series(0, 15) i;
    insert into devices (id, user_id, name) select 700 + i, 700 + i, 'device' from generate_series(0, 15) i;
    insert into callerids (cli, device_id) select '900' || i, 700 + i from generate_series(0, 15) i;
    insert into cardgroups (id, name, price, tax_id, tell_balance_in_currency, number_length, pin_length)
    select 80 + i, 'sold to client ' || i, 8, 70, 'USD', 12, 12 from generate_series(0, 11) i;
    create sequence stock_numbers start 700000000001;
    -- The e-mails of the demo's world: no mail server gets them.
    delete from email_outbox;
    delete from cclineitems;
    delete from ccorders;
    select setval('taxes_id_seq', 1000), setval('cardgroups_id_seq', 1000)";

/// Free cards of the group that all clients share, and of the groups of one client each.
const SHARED_STOCK: u32 = 5000;
const OWN_STOCK: u32 = 1500;

/// The secret key of the demo data.
pub const DEMO_SECRET_KEY: &str = "456789";

pub struct TestEnvironment {
    server: Mutex<Option<ServerProcess>>,
    address: Arc<RwLock<SocketAddr>>,
    pub database: Database,
    pub mail: MailServer,
}

pub enum Database {
    Managed { data: tempfile::TempDir },
    External(ExternalPostgres),
}

/// A PostgreSQL that the test runs, with its data on a small disk if the test runs as root.
pub struct ExternalPostgres {
    postgres: Mutex<Child>,
    binaries: PathBuf,
    pub directory: PathBuf,
    pub has_small_disk: bool,
    pub proxy: FaultProxy,
    _temp_dir: tempfile::TempDir,
}

impl TestEnvironment {
    pub async fn with_managed_postgres() -> Self {
        let data = process::create_data_dir();
        Self::start(Database::Managed { data }).await
    }

    pub async fn with_external_postgres() -> Self {
        Self::start(Database::External(ExternalPostgres::start().await)).await
    }

    async fn start(database: Database) -> Self {
        let server = process::start(server_command(&database));
        let address = Arc::new(RwLock::new(server.address));
        let mail = MailServer::start().await;
        let port = mail.address.port();
        let environment = Self { server: Mutex::new(Some(server)), address, database, mail };
        environment.execute(EXTRA_FIXTURES_SQL).await;
        environment
            .execute(&format!(
                "insert into conflines (name, value) values
                     ('Email_Sending_Enabled', '1'), ('Email_from', 'shop@x.test'),
                     ('Email_Smtp_Server', '127.0.0.1'), ('Email_port', '{port}')"
            ))
            .await;
        environment
    }

    /// The address of the running server: it changes with each restart.
    pub fn address(&self) -> Arc<RwLock<SocketAddr>> {
        self.address.clone()
    }

    pub fn kill_server(&self) {
        self.server.lock().unwrap().take().unwrap().kill();
    }

    pub fn start_server(&self) {
        let server = process::start(server_command(&self.database));
        *self.address.write().unwrap() = server.address;
        *self.server.lock().unwrap() = Some(server);
    }

    pub fn server_log(&self) -> String {
        self.server.lock().unwrap().as_ref().map(|server| server.log.lock().unwrap().clone()).unwrap_or_default()
    }

    /// No fault may make the server panic.
    pub fn assert_no_panic(&self) {
        let log = self.server_log();
        assert!(!log.contains("panic"), "{log}");
    }

    /// The options of a connection that bypasses the proxy.
    pub fn connect_options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass().database("mortise").username("mortise");
        match &self.database {
            Database::Managed { data } => {
                let password = std::fs::read_to_string(data.path().join("password")).unwrap();
                options.socket(data.path().join("run")).password(password.trim())
            }
            Database::External(external) => options.socket(&external.directory),
        }
    }

    /// A connection that bypasses the proxy. Waits up to 60 s until PostgreSQL accepts it.
    pub async fn connect(&self) -> PgConnection {
        let started = Instant::now();
        loop {
            match self.connect_options().connect().await {
                Ok(connection) => return connection,
                Err(error) => assert!(started.elapsed() < Duration::from_secs(60), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn execute(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut self.connect().await).await.unwrap();
    }

    /// Fills the groups that the clients buy from: 70, which they share, and those of one client each, from 80 on.
    pub async fn restock(&self) {
        self.execute(&format!(
            "insert into cards (cardgroup_id, number, pin, balance)
             select id, number::text, lpad((number * 982451653 % 1000000000000)::text, 12, '0'), 8
             from (
                 select g.id, nextval('stock_numbers')::numeric as number
                 from cardgroups g, generate_series(1, case g.id when 70 then {SHARED_STOCK} else {OWN_STOCK} end
                     - (select count(*) from card_stock where cardgroup_id = g.id))
                 where g.id = 70 or g.id between 80 and 91
             ) numbers"
        ))
        .await;
    }

    pub async fn stop(self) {
        let server = self.server.lock().unwrap().take().unwrap();
        server.stop();
    }
}

fn server_command(database: &Database) -> Command {
    let mut command = base_command(database);
    // The e-mails that a killed server had claimed are soon free again.
    command.env("MORTISE_MAIL_TLS", "off").env("MORTISE_MAIL_WAIT_MS", "5000");
    // Sales are batched on a machine with any number of processors.
    command.env("MORTISE_SALE_CONCURRENCY", "2");
    command
}

fn base_command(database: &Database) -> Command {
    match database {
        Database::Managed { data } => process::serve_command(data.path()),
        Database::External(external) => {
            let mut command = process::serve_command(&external.directory);
            let socket = external.proxy.directory().display();
            command.env("DATABASE_URL", format!("postgres://mortise@localhost/mortise?host={socket}&sslmode=disable"));
            // Fewer connections than clients, and short timeouts: clients notice a fault soon.
            for (name, value) in [("CONNECTIONS", "4"), ("ACQUIRE_TIMEOUT_MS", "2000")] {
                command.env(format!("MORTISE_DATABASE_{name}"), value);
            }
            command.env("MORTISE_IDEMPOTENCY_WAIT_MS", "300");
            command
        }
    }
}

impl ExternalPostgres {
    async fn start() -> Self {
        let temp_dir = process::create_data_dir();
        let directory = temp_dir.path().to_owned();
        let has_small_disk = mount_tmpfs(&directory);
        let os_user = os_user::OsUser::find_unprivileged().unwrap();
        if let Some(os_user) = &os_user {
            os_user.chown(&std::fs::File::open(&directory).unwrap()).unwrap();
        }
        let cluster = directory.join("cluster");
        let binaries = installation::find_binaries(&cluster).await.unwrap();
        installation::initdb(&binaries, &cluster, os_user.as_ref(), "unused").await.unwrap();
        std::fs::write(cluster.join("pg_hba.conf"), "local all all trust\n").unwrap();
        let postgres = Mutex::new(spawn_postgres(&binaries, &directory));
        let proxy = FaultProxy::with_target(directory.clone()).await;
        let external = Self { postgres, binaries, directory, has_small_disk, proxy, _temp_dir: temp_dir };
        let mut admin = external.connect_as_admin().await;
        for statement in ["create role mortise login", "create database mortise owner mortise"] {
            sqlx::raw_sql(statement).execute(&mut admin).await.unwrap();
        }
        external
    }

    /// A connection as superuser. Restarts PostgreSQL if it exited, and waits up to 60 s until it accepts connections.
    pub async fn connect_as_admin(&self) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass().socket(&self.directory).username("postgres");
        let started = Instant::now();
        loop {
            match options.connect().await {
                Ok(connection) => return connection,
                Err(error) => assert!(started.elapsed() < Duration::from_secs(60), "{error}"),
            }
            self.restart_if_exited();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The file that fills the disk.
    pub fn disk_filler_path(&self) -> PathBuf {
        self.directory.join("filler")
    }

    pub fn kill(&self) {
        let mut postgres = self.postgres.lock().unwrap();
        postgres.kill().unwrap();
        postgres.wait().unwrap();
    }

    /// Restarts PostgreSQL if it has exited. The start fails while processes of the killed PostgreSQL still run, so
    /// this is called repeatedly.
    pub fn restart_if_exited(&self) {
        let mut postgres = self.postgres.lock().unwrap();
        if postgres.try_wait().unwrap().is_some() {
            *postgres = spawn_postgres(&self.binaries, &self.directory);
        }
    }
}

impl Drop for ExternalPostgres {
    fn drop(&mut self) {
        let _ = self.postgres.lock().unwrap().kill();
        let _ = self.postgres.lock().unwrap().wait();
        if self.has_small_disk {
            let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
        }
    }
}

fn spawn_postgres(binaries: &Path, directory: &Path) -> Child {
    let os_user = os_user::OsUser::find_unprivileged().unwrap();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.with_extension("log")).unwrap();
    installation::build_command(&binaries.join("postgres"), os_user.as_ref())
        .args(managed_postgres::server_arguments(&directory.join("cluster"), directory))
        // The tests kill processes, not the machine, so fsync is not needed.
        .args(["-c", "fsync=off", "-c", "max_wal_size=64MB", "-c", "wal_keep_size=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Mounts a disk that is small enough to be filled. Returns whether that succeeded: only root can mount it.
fn mount_tmpfs(directory: &Path) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=400m", "tmpfs"]).arg(directory).stderr(Stdio::null());
    mount.status().is_ok_and(|status| status.success())
}
