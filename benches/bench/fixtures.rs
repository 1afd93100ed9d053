//! The benchmark environment: a managed PostgreSQL with test data, and the servers that use it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mortise::managed_postgres::{ManagedPostgres, STOP_TIMEOUT};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};

use crate::BenchSize;

pub const SECRET_KEY: &str = "secret";
/// The first of ten groups for sales, with consecutive ids.
pub const FIRST_GROUP_ID: u32 = 101;
/// A group that is sold except for its last cards.
pub const SOLD_OUT_GROUP_ID: u32 = 201;
/// The group of `calling_cards_create`. Its random PINs are longer than those of the other groups, so that they do not
/// collide with them.
pub const CREATED_CARDS_GROUP_ID: u32 = 202;
/// A group of the size of `SOLD_OUT_GROUP_ID`, with all cards free.
pub const UNSOLD_GROUP_ID: u32 = 203;

pub struct BenchEnvironment {
    managed: ManagedPostgres,
    pub connect_options: PgConnectOptions,
    pub pool: PgPool,
    pub password: String,
    data_dir: tempfile::TempDir,
}

impl BenchEnvironment {
    pub async fn new(size: BenchSize) -> Self {
        let mut builder = tempfile::Builder::new();
        let data = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        let managed = ManagedPostgres::prepare(data.path()).await.unwrap();
        managed.start().await.unwrap();
        let options = managed.connect_options().options([("jit", "off")]);
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(2).connect_with(options.clone()).await.unwrap();
        mortise::db::migrate(&pool).await.unwrap();
        let password = std::fs::read_to_string(data.path().join("password")).unwrap().trim().to_owned();
        let environment = Self { managed, connect_options: options, pool, password, data_dir: data };
        std::fs::create_dir(environment.scratch_dir()).unwrap();
        environment.insert_fixtures(size).await;
        environment
    }

    async fn insert_fixtures(&self, size: BenchSize) {
        self.execute(&format!(
            "insert into currencies (id, name) values (1, 'USD');
             insert into taxes (id, tax1_enabled, tax1_value) values (1, 1, 19);
             insert into users (id, username, usertype, tax_id) values (0, 'admin', 'admin', 1);
             insert into conflines (name, value)
             values ('Allow_API', '1'), ('Allow_GET_API', '1'), ('API_Secret_Key', '{SECRET_KEY}'), ('CC_Active', '1');
             insert into cardgroups (id, name, price, tax_id, tell_balance_in_currency, number_length, pin_length)
             select id, 'group ' || id, 8.403361344537815, 1, 'USD', 12,
                 case id when {CREATED_CARDS_GROUP_ID} then 13 else 12 end
             from (
                 select generate_series({FIRST_GROUP_ID}, {FIRST_GROUP_ID} + 9)
                 union all values ({SOLD_OUT_GROUP_ID}), ({CREATED_CARDS_GROUP_ID}), ({UNSOLD_GROUP_ID})
             ) g (id);
             select setval('cardgroups_id_seq', 1000)"
        ))
        .await;
        for group in (FIRST_GROUP_ID..FIRST_GROUP_ID + 10).chain([SOLD_OUT_GROUP_ID, UNSOLD_GROUP_ID]) {
            let cards = if group >= SOLD_OUT_GROUP_ID { size.sold_out_cards } else { size.cards_per_group };
            self.add_cards(group, cards).await;
        }
        self.execute("vacuum analyze").await;
    }

    /// Adds cards to a group. The PINs are distinct and in no order.
    pub async fn add_cards(&self, group: u32, cards: u32) {
        self.execute(&format!(
            "insert into cards (cardgroup_id, number, pin, balance)
             select {group}, lpad((start + i)::text, 12, '0'),
                 lpad((((start + i) * 982451653::numeric) % 1000000000000)::text, 12, '0'), 8.403361344537815
             from (
                 select coalesce(max(number), '{group}000000000')::numeric as start
                 from cards where cardgroup_id = {group}
             ) last, generate_series(1, {cards}) i"
        ))
        .await;
    }

    /// Refills the groups that are more than half sold. Called between rounds, so that no group is sold out during one.
    pub async fn restock(&self, size: BenchSize) {
        for group in FIRST_GROUP_ID..FIRST_GROUP_ID + 10 {
            let free: i64 = sqlx::query_scalar("select count(*) from card_stock where cardgroup_id = $1")
                .bind(i32::try_from(group).unwrap())
                .fetch_one(&self.pool)
                .await
                .unwrap();
            let missing = i64::from(size.cards_per_group) - free;
            if missing > i64::from(size.cards_per_group) / 2 {
                self.add_cards(group, u32::try_from(missing).unwrap()).await;
            }
        }
    }

    /// The number of payments, by their id sequence.
    pub async fn payment_count(&self) -> i64 {
        sqlx::query_scalar("select last_value from payments_id_seq").fetch_one(&self.pool).await.unwrap()
    }

    pub async fn execute(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&self.pool).await.unwrap();
    }

    /// The program `mortise`, for the database.
    pub fn command(&self) -> Command {
        let socket = self.connect_options.get_socket().unwrap().display().to_string();
        let url = format!("postgres://mortise:{}@localhost/mortise?host={socket}", self.password);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
        // For the file with the address of the server.
        command.env("DATABASE_URL", url).env("MORTISE_DATA_DIR", self.scratch_dir().join("data")).current_dir("/");
        command
    }

    /// Starts a server process on the database.
    pub fn start_server(&self, settings: &[(&str, &str)]) -> ServerProcess {
        ServerProcess::start(&mut self.command(), settings)
    }

    /// A directory for temporary files.
    pub fn scratch_dir(&self) -> PathBuf {
        self.data_dir.path().join("scratch")
    }

    pub async fn stop(self) {
        self.pool.close().await;
        self.managed.stop(STOP_TIMEOUT).await;
    }
}

/// A running server.
pub struct ServerProcess {
    child: Child,
    pub address: SocketAddr,
    /// The address of the console, with `console_listen`.
    pub console_address: Option<SocketAddr>,
    /// From the start of the process until it listens.
    pub startup_time: Duration,
}

impl ServerProcess {
    pub fn start(command: &mut Command, settings: &[(&str, &str)]) -> Self {
        for (name, value) in settings {
            command.env(format!("MORTISE_{}", name.to_uppercase()), value);
        }
        let start = Instant::now();
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut console_address = None;
        let address = lines
            .find_map(|line| {
                let line = line.unwrap();
                let address_after = |text| line.split_once(text)?.1.split('/').next()?.parse().ok();
                console_address = console_address.or_else(|| address_after("console at http://"));
                address_after("listening on http://")
            })
            .unwrap();
        let startup_time = start.elapsed();
        std::thread::spawn(move || lines.count());
        Self { child, address, console_address, startup_time }
    }

    /// Memory of the process in megabytes, by the field of `/proc/PID/status`: current (`VmRSS`) or peak (`VmHWM`).
    pub fn memory_mb(&self, field: &str) -> f64 {
        memory_mb(&self.child, field)
    }

    /// Stops the server by SIGTERM and waits for its exit.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peak of a process's memory so far.
pub fn peak_memory_mb(child: &Child) -> f64 {
    memory_mb(child, "VmHWM")
}

/// A field of `/proc/PID/status` in megabytes.
fn memory_mb(child: &Child, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
        .map_or(f64::NAN, |kilobytes| kilobytes / 1024.0)
}
