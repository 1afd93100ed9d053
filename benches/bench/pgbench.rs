//! The baseline: pgbench with the SQL of the server.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::fixtures::{BenchEnvironment, FIRST_GROUP_ID};

/// A statement and its parameters' types.
pub struct Statement {
    pub text: String,
    param_types: Vec<&'static str>,
}

/// The shortest statement in `.sqlx` that contains all `parts`.
pub fn find_statement(parts: &[&str]) -> Statement {
    let statements = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let query = |file: &serde_json::Value| file["query"].as_str().unwrap().to_owned();
    let matches = |file: &serde_json::Value| parts.iter().all(|part| query(file).contains(part));
    let shortest = std::fs::read_dir(statements).unwrap().map(read).filter(matches);
    let shortest = shortest.min_by_key(|file| query(file).len()).unwrap();
    let param_types = shortest["describe"]["parameters"]["Left"].as_array().unwrap();
    let param_types = param_types.iter().map(|name| match name.as_str().unwrap() {
        "Int4" => "integer",
        "Int8" => "bigint",
        "Jsonb" => "jsonb",
        "Numeric" => "numeric",
        "Text" => "text",
        "Bool" => "boolean",
        "Bytea" => "bytea",
        "TextArray" => "text[]",
        other => panic!("unknown parameter type {other}"),
    });
    Statement { text: query(&shortest), param_types: param_types.collect() }
}

/// The session settings of the server's connections.
const CONNECTION_OPTIONS: &str = "-c jit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off \
    -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c enable_sort=off -c TimeZone=UTC";

const NULL: &str = "null";
const PGBENCH_MISSING: &str = "cannot run pgbench; install the PostgreSQL package that contains it";

/// A group, random in each run: the requests use all groups too.
const RANDOM_GROUP: &str = "random group";
/// An idempotency key, random in each run.
const RANDOM_KEY: &str = "random key";

/// The first line of `sell_one.sql`.
const SELL_ONE: &str = "-- Sells the next free cards of one group:";
/// The first line of `sell_batch.sql`.
const SELL_BATCH: &str = "-- Sells the next free cards of one or several groups";

/// Replaces the parameters by pgbench variables with a type cast. pgbench turns each occurrence of a variable into a
/// parameter of its own and cannot send NULL: NULL is sent as a text and converted by `nullif`. In JSON, `%s` stands
/// for a random group. The planner knows as little about these values as about the server's parameters.
fn to_pgbench_sql(statement: &Statement, values: &[&str]) -> String {
    // Comments contain the names of parameters too.
    let mut text: String = statement.text.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    for (index, (value, param_type)) in values.iter().zip(&statement.param_types).enumerate().rev() {
        let number = index + 1;
        let variable = match *value {
            RANDOM_GROUP => format!("(:random_group::{param_type})"),
            RANDOM_KEY => format!("(:random_key::{param_type})"),
            NULL => format!("nullif(:p{number}, '{NULL}')::{param_type}"),
            _ if *param_type == "jsonb" => format!("(format(:p{number}, :random_group::integer)::jsonb)"),
            _ => format!("(:p{number}::{param_type})"),
        };
        text = text.replace(&format!("${number}"), &variable);
    }
    text
}

/// A script that each pgbench client runs in a loop.
#[derive(Debug, Clone)]
pub struct Script {
    text: String,
    variables: Vec<(String, String)>,
}

impl Script {
    fn new(statement: &Statement, values: &[&str]) -> Self {
        let variables =
            values.iter().enumerate().map(|(index, value)| (format!("p{}", index + 1), (*value).to_owned())).collect();
        let text = format!(
            "\\set random_group random({FIRST_GROUP_ID}, {FIRST_GROUP_ID} + 9)\n\
             \\set random_key random(1, 9000000000000000000)\n{};\n",
            to_pgbench_sql(statement, values)
        );
        Self { text, variables }
    }

    /// The sale of one card, with the statement of the server.
    pub fn sale() -> Self {
        Self::new(&find_statement(&[SELL_ONE]), &[RANDOM_GROUP, "0", "0", "USD", "1", "1", NULL, NULL])
    }

    /// The sale of one card without a key, with the statement of batches.
    pub fn sale_by_batch_statement() -> Self {
        let values = [r#"[{"group_id": %s, "quantity": 1}]"#, "0", "0", "USD", "1", "false", "false"];
        Self::new(&find_statement(&[SELL_BATCH]), &values)
    }

    /// The sale of one card with an idempotency key.
    pub fn sale_with_key() -> Self {
        let fingerprint = format!("\\x{}", "5a".repeat(32));
        let values = [RANDOM_GROUP, "0", "0", "USD", "1", "1", RANDOM_KEY, &fingerprint];
        Self::new(&find_statement(&[SELL_ONE]), &values)
    }

    /// A minimal sale: the card, its payment, one audit row.
    pub fn bare_sale() -> Self {
        let sale = "with picked as materialized (
                select c.id, c.number, c.pin, c.balance from card_stock s join cards c on c.id = s.card_id
                where s.cardgroup_id = $1 and c.sold = 0
                order by s.number, s.card_id limit 1 for no key update of c skip locked
            ), sold as (
                update cards set sold = 1, active = 1 where id = any (array(select id from picked)) returning id
            ), payment as (
                insert into payments (paymenttype, kind, amount, currency, user_id, card, completed, date_added,
                    shipped_at)
                select 'Card', 'sale', balance, 'USD', id, 1, 1, now(), now() from picked returning id
            ), action as (
                insert into actions (action, target_type, target_id)
                select 'card_payment_created', 'Payment', id from payment
            )
            select number, pin, balance from picked";
        Self::new(&Statement { text: sale.to_owned(), param_types: vec!["integer"] }, &[RANDOM_GROUP])
    }

    /// The query of `card_group_get`.
    pub fn card_group_get() -> Self {
        Self::new(&find_statement(&["as \"free_cards!\""]), &[RANDOM_GROUP, "0", "1"])
    }

    /// The query of `rate_get`, for a random number whose first seven digits are one of these prefixes.
    pub fn rate_get(user_id: u32, first_prefix: u32, last_prefix: u32) -> Self {
        let prefixes: Vec<String> = (1..=9).map(|length| format!("left(:number::text, {length})")).collect();
        let text = find_statement(&["-- The prices of a user"]).text;
        // Comments contain the names of parameters too.
        let text: String =
            text.lines().filter(|line| !line.trim_start().starts_with("--")).map(|line| format!("{line}\n")).collect();
        let text = text
            .replace("$1", "(:user_id::integer)")
            .replace("$2", &format!("(array[{}])", prefixes.join(", ")))
            .replace("$3", "(:longest_only::boolean)");
        let variables = [("user_id", user_id.to_string()), ("longest_only", "true".to_owned())];
        Self {
            text: format!("\\set number random({first_prefix}00, {last_prefix}99)\n{text};\n"),
            variables: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        }
    }

    /// A script of its own.
    pub fn from_text(text: String) -> Self {
        Self { text, variables: Vec::new() }
    }

    /// Runs pgbench for this duration and returns its transactions per second.
    pub fn run(&self, environment: &BenchEnvironment, clients: usize, duration: Duration) -> f64 {
        let output = self.command(environment, clients, duration).output().expect(PGBENCH_MISSING);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let tps = stdout.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        tps.unwrap_or_else(|| panic!("pgbench printed no rate\n{stdout}\n{stderr}"))
    }

    /// Starts pgbench and suspends it until [`Pgbench::run_for`].
    pub fn start(&self, environment: &BenchEnvironment, clients: usize) -> Pgbench {
        const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
        let mut command = self.command(environment, clients, DURATION_MAX);
        let pgbench = Pgbench(command.stdout(Stdio::null()).spawn().expect(PGBENCH_MISSING));
        pgbench.send_signal(Signal::STOP);
        pgbench
    }

    fn command(&self, environment: &BenchEnvironment, clients: usize, duration: Duration) -> Command {
        let (mut file, path) = tempfile::NamedTempFile::new_in(environment.scratch_dir()).unwrap().keep().unwrap();
        file.write_all(self.text.as_bytes()).unwrap();
        let (clients, seconds) = (clients.to_string(), duration.as_secs().max(1).to_string());
        let mut command = Command::new("pgbench");
        command
            .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients, "-T", &seconds, "-f"])
            .arg(path)
            .args(self.variables.iter().map(|(name, value)| format!("-D{name}={value}")))
            .arg("-h")
            .arg(environment.connect_options.get_socket().unwrap())
            .args(["-p", "5432", "-U", "mortise", "mortise"])
            .env("PGPASSWORD", &environment.password)
            .env("PGOPTIONS", CONNECTION_OPTIONS);
        command
    }
}

/// A pgbench process that sells cards, suspended between its runs. If it were restarted for each run, it would spend
/// the run on connecting and planning.
pub struct Pgbench(Child);

impl Pgbench {
    /// Resumes pgbench for this duration and returns the sales per second, counted by the payments. pgbench itself
    /// reports its rate only when it ends.
    pub async fn run_for(&self, environment: &BenchEnvironment, duration: Duration) -> f64 {
        let before = environment.payment_count().await;
        let start = Instant::now();
        self.send_signal(Signal::CONT);
        tokio::time::sleep(duration).await;
        let (after, elapsed) = (environment.payment_count().await, start.elapsed());
        self.send_signal(Signal::STOP);
        assert!(after > before, "pgbench sold no cards");
        (after - before) as f64 / elapsed.as_secs_f64()
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
