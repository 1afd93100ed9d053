//! pgbench, doing the same SQL.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::fixtures::{BenchEnvironment, FIRST_GROUP_ID};

/// A statement and its parameters' types.
struct Statement {
    text: String,
    param_types: Vec<&'static str>,
}

/// The shortest statement of the program that contains `parts`, as it is committed for the compiler.
fn find_statement(parts: &[&str]) -> Statement {
    let statements = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let query = |file: &serde_json::Value| file["query"].as_str().unwrap().to_owned();
    let fits = |file: &serde_json::Value| parts.iter().all(|part| query(file).contains(part));
    let found = std::fs::read_dir(statements).unwrap().map(read).filter(fits).min_by_key(|file| query(file).len());
    let found = found.unwrap();
    let types =
        found["describe"]["parameters"]["Left"].as_array().unwrap().iter().map(|name| match name.as_str().unwrap() {
            "Int4" => "integer",
            "Int8" => "bigint",
            "Int8Array" => "bigint[]",
            "Numeric" => "numeric",
            "Text" => "text",
            "Bool" => "boolean",
            "Bytea" => "bytea",
            other => panic!("{other}"),
        });
    Statement { text: found["query"].as_str().unwrap().to_owned(), param_types: types.collect() }
}

/// Each connection of the program sets these too.
const CONNECTION_OPTIONS: &str = "-c jit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off \
    -c enable_hashjoin=off -c enable_mergejoin=off -c enable_sort=off -c TimeZone=UTC";

const NULL: &str = "null";
const PGBENCH_MISSING: &str = "pgbench, which comes with PostgreSQL";

/// What is said in the statement that sells the next cards, without order rows.
const SALE_STATEMENT_PARTS: [&str; 2] = ["as now\n", "from picked where (select true"];

/// With pgbench's variables in place of parameters. pgbench makes a parameter of each place where a variable stands, and can't
/// send NULL: so each says its type, and what is null is made so on the way; the planner knows as little of it as of ours.
fn to_pgbench_sql(statement: &Statement, values: &[&str]) -> String {
    let mut text = statement.text.clone();
    for (place, (value, kind)) in values.iter().zip(&statement.param_types).enumerate().rev() {
        let name = place + 1;
        let variable =
            if *value == NULL { format!("nullif(:p{name}, '{NULL}')::{kind}") } else { format!("(:p{name}::{kind})") };
        text = text.replace(&format!("${name}"), &variable);
    }
    text
}

/// What pgbench runs again and again.
#[derive(Debug, Clone)]
pub struct Script {
    text: String,
    variables: Vec<(String, String)>,
}

impl Script {
    fn new(statement: &Statement, values: &[&str]) -> Self {
        let variables =
            values.iter().enumerate().map(|(place, value)| (format!("p{}", place + 1), (*value).to_owned())).collect();
        // The group, the first parameter, is drawn anew each time, as the requests do.
        let text = format!(
            "\\set p1 random({FIRST_GROUP_ID}, {FIRST_GROUP_ID} + 9)\n{};\n",
            to_pgbench_sql(statement, values)
        );
        Self { text, variables }
    }

    /// The sale of a card, as the server sends it.
    pub fn sale() -> Self {
        Self::new(&find_statement(&SALE_STATEMENT_PARTS), &["101", "0", "0", "true", "USD", "1", "1", "1"])
    }

    /// The same with an idempotency key, which is drawn anew each time.
    pub fn sale_with_key() -> Self {
        let fingerprint = format!("\\x{}", "5a".repeat(32));
        let values = ["101", "0", "0", "true", "USD", "1", "1", "1", "0", &fingerprint, "USD"];
        let Self { text, variables } =
            Self::new(&find_statement(&[SALE_STATEMENT_PARTS[0], SALE_STATEMENT_PARTS[1], "stored_reply as"]), &values);
        Self { text: format!("\\set p9 random(1, 9000000000000000000)\n{text}"), variables }
    }

    /// The least that a sale can be: the card, its payment, one audit row.
    pub fn bare_sale() -> Self {
        let sale = "with picked as materialized (
                select c.id, c.number, c.pin, c.balance from card_stock s join cards c on c.id = s.card_id
                where s.cardgroup_id = $1 and c.sold = 0
                order by s.number, s.card_id limit 1 for no key update of c skip locked
            ), sold as (
                update cards set sold = 1, active = 1 where id = any (array(select id from picked)) returning id
            ), payment as (
                insert into payments (paymenttype, kind, amount, currency, user_id, card, completed, date_added, shipped_at)
                select 'Card', 'sale', balance, 'USD', id, 1, 1, now(), now() from picked returning id
            ), action as (
                insert into actions (action, target_type, target_id) select 'card_payment_created', 'Payment', id from payment
            )
            select number, pin, balance from picked";
        Self::new(&Statement { text: sale.to_owned(), param_types: vec!["integer"] }, &["101"])
    }

    /// What `card_group_get` asks.
    pub fn card_group_get() -> Self {
        Self::new(&find_statement(&["as \"free_cards!\""]), &["101", "0", "1"])
    }

    /// How many a second so many clients do in this time.
    pub fn run(&self, world: &BenchEnvironment, clients: usize, time: Duration) -> f64 {
        let output = self.command(world, clients, time).output().expect(PGBENCH_MISSING);
        let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let tps = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        tps.unwrap_or_else(|| panic!("{printed}\n{errors}"))
    }

    /// So many clients that run when it is their turn.
    pub fn start(&self, world: &BenchEnvironment, clients: usize) -> Pgbench {
        const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
        let mut command = self.command(world, clients, DURATION_MAX);
        let pgbench = Pgbench(command.stdout(Stdio::null()).spawn().expect(PGBENCH_MISSING));
        pgbench.send_signal(Signal::STOP);
        pgbench
    }

    fn command(&self, world: &BenchEnvironment, clients: usize, time: Duration) -> Command {
        let (mut file, path) = tempfile::NamedTempFile::new_in(world.scratch_dir()).unwrap().keep().unwrap();
        file.write_all(self.text.as_bytes()).unwrap();
        let (clients, seconds) = (clients.to_string(), time.as_secs().max(1).to_string());
        let mut command = Command::new("pgbench");
        command
            .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients, "-T", &seconds, "-f"])
            .arg(path)
            .args(self.variables.iter().map(|(name, value)| format!("-D{name}={value}")))
            .arg("-h")
            .arg(world.connect_options.get_socket().unwrap())
            .args(["-p", "5432", "-U", "mortise", "mortise"])
            .env("PGPASSWORD", &world.password)
            .env("PGOPTIONS", CONNECTION_OPTIONS);
        command
    }
}

/// A pgbench that sells, and stands still between its turns: begun anew for each, it would spend them on connecting and planning.
pub struct Pgbench(Child);

impl Pgbench {
    /// How many a second it sells in this time: the payments that there are more at its end. (pgbench itself counts only to its own.)
    pub async fn run_for(&self, world: &BenchEnvironment, time: Duration) -> f64 {
        let before = world.payment_count().await;
        let since = Instant::now();
        self.send_signal(Signal::CONT);
        tokio::time::sleep(time).await;
        let (after, took) = (world.payment_count().await, since.elapsed());
        self.send_signal(Signal::STOP);
        assert!(after > before, "pgbench sells nothing");
        (after - before) as f64 / took.as_secs_f64()
    }

    fn send_signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
