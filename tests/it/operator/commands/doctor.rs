//! `mortise doctor`. The tests' PostgreSQL runs without fsync, so one check always fails; `local.rs` tests a database
//! without problems.

use serde_json::Value;
use tokio::sync::Mutex;

use super::{CommandOutput, Operator, command, run_command};

/// The JSON output of `mortise doctor`.
struct Findings(Value);

impl Findings {
    fn of(operator: &Operator) -> Self {
        let output = operator.run(&["doctor", "--json"]);
        assert_eq!((output.code, output.stderr.as_str()), (1, ""), "{}", output.stdout);
        Self(serde_json::from_str(&output.stdout).unwrap())
    }

    fn check(&self, name: &str) -> &Value {
        let checks = self.0["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {}", self.0))
    }

    /// The messages of all checks with this name.
    fn messages(&self, name: &str) -> Vec<&str> {
        let checks = self.0["checks"].as_array().unwrap().iter().filter(|check| check["name"] == name);
        checks.map(|check| check["message"].as_str().unwrap()).collect()
    }

    #[track_caller]
    fn assert_check(&self, name: &str, state: &str, message: &str) {
        let check = self.check(name);
        assert!(check["state"] == state && check["message"].as_str().unwrap().contains(message), "{check}");
        assert_eq!(check["advice"].is_null(), state == "ok", "{check}");
    }
}

/// Replication slots belong to the whole cluster: tests that create one or count warnings must not run at the same
/// time.
static SLOTS: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn each_check_reports_ok_or_advice() {
    let _slots = SLOTS.lock().await;
    let operator = Operator::new().await;
    operator.server.execute("update cards set sold = 1 where id = 6").await;
    let findings = Findings::of(&operator);
    assert_eq!(findings.0["ok"], false);
    findings.assert_check("durability", "problem", "off: fsync, full_page_writes");
    findings.assert_check("get", "warning", "GET is on");
    findings.assert_check("passwords", "warning", "requests need no password");
    findings.assert_check("key length", "problem", "fewer than 8 characters can be guessed: admin, reseller");
    findings.assert_check("cards", "warning", "group 6 (ten dollars): 3");
    let resellers = "resellers that cannot create a card group: reseller (no tariff, no LCR)";
    findings.assert_check("resellers", "warning", resellers);
    findings.assert_check("backup", "warning", "no backup was made with `mortise backup`");
    for name in [
        "settings",
        "temp_dir",
        "clock",
        "database",
        "session",
        "autovacuum",
        "schema",
        "objects",
        "ids",
        "audit",
        "stock",
        "pins",
        "validity",
        "ledger",
        "text",
        "mail",
        "demo key",
        "keys",
        "hashes",
    ] {
        findings.assert_check(name, "ok", "");
    }
    let text = operator.run(&["doctor"]).stdout;
    assert!(text.contains("warning  get           GET is on"), "{text}");
    assert!(
        text.contains(
            "\n                       -> change the clients to POST, then run `mortise setting set Allow_GET_API off`\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("problems: 2, warnings: 5\n"), "{text}");
}

#[tokio::test]
async fn business_data_is_checked() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "update cardgroups set valid_till = '2021-05-01' where id in (6, 8, 11);
             insert into tariffs (name, owner_id) values ('own', 3);
             insert into backups (finished_at, file, bytes) values
                 ('2026-01-01', '/b/old.dump', 1), (now() at time zone 'utc' - interval '3 days', '/b/new.dump', 1)",
        )
        .await;
    let findings = Findings::of(&operator);
    // Group 8 is hidden, and group 11 has no cards.
    let expired = "groups that have expired and still sell: group 6 (ten dollars): 2021-05-01";
    let message = findings.check("validity")["message"].as_str().unwrap();
    assert_eq!(message, expired);
    findings.assert_check("validity", "warning", expired);
    findings.assert_check("resellers", "warning", "reseller (no LCR)");
    findings.assert_check("backup", "warning", "/b/new.dump");
    operator
        .server
        .execute(
            "insert into lcrs (name, user_id) values ('own', 3);
             update backups set finished_at = now() at time zone 'utc' - interval '47 hours' where file = '/b/new.dump'",
        )
        .await;
    let findings = Findings::of(&operator);
    findings.assert_check("resellers", "ok", "each reseller has a tariff and an LCR");
    findings.assert_check("backup", "ok", "the last backup is of ");
}

/// Each rule of the ledger, violated by the latest payments.
#[tokio::test]
async fn violations_of_the_ledger_are_problems() {
    for (statement, message) in [
        (
            "drop index payments_sale_card_unique;
             insert into payments (kind, user_id) values ('sale', 1), ('reissue', 1)",
            "the card 1 has several payments of the kinds sale and reissue",
        ),
        (
            "insert into payments (id, kind, amount, tax, reverses) values (1, 'sale', 5, 1, null), (2, 'refund', -6, 0, 1)",
            "the refunds of the payment 1 are more than its amount or tax, or have the wrong sign",
        ),
        (
            "insert into payments (id, kind, amount, tax, reverses) values (1, 'sale', 5, 1, null), (2, 'refund', 0, 0.1, 1)",
            "the refunds of the payment 1 are more",
        ),
        (
            "insert into payments (id, kind, amount) values (7, 'refund', -1)",
            "the payment 7 reverses no payment, or is no refund",
        ),
        (
            "insert into payments (id, kind, reverses) values (7, 'sale', 7)",
            "the payment 7 reverses no payment, or is no refund",
        ),
        (
            "update cards set retired_at = now(), balance = 0.1 where id = 4",
            "the retired card 1111111000 (id 4) has a balance",
        ),
    ] {
        let operator = Operator::new().await;
        operator.server.execute(statement).await;
        Findings::of(&operator).assert_check("ledger", "problem", message);
    }
}

#[tokio::test]
async fn insecure_settings_are_reported() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 3;
              delete from conflines where name = 'API_Secret_Key' and owner_id = 0;
              insert into conflines (name, value, owner_id) values ('API_Disable_hash_checking', '1', 3);
              insert into conflines (name, value, value2, owner_id) values
                  ('API_Secret_Key_Previous', 'x', '2020-01-01 00:00:00', 0),
                  ('API_Secret_Key_Previous', 'x', 'soon', 3)",
        )
        .await;
    let findings = Findings::of(&operator);
    findings.assert_check("demo key", "problem", "MOR's documentation");
    findings.assert_check("keys", "warning", "no secret key is set: admin");
    findings.assert_check("hashes", "problem", "are not checked for reseller");
    findings.assert_check(
        "previous key",
        "warning",
        "admin (until 2020-01-01 00:00:00), reseller (until \"soon\", an invalid time)",
    );
    operator
        .server
        .execute("update conflines set value2 = '2999-01-01 00:00:00' where name = 'API_Secret_Key_Previous'")
        .await;
    Findings::of(&operator).assert_check(
        "previous key",
        "ok",
        "still valid: admin (until 2999-01-01 00:00:00), reseller",
    );
}

#[tokio::test]
async fn damaged_database_is_reported() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "drop index cards_pin, users_owner; delete from card_stock where card_id = 2;
              alter table cards set (autovacuum_enabled = off);
              update pg_index set indisvalid = false where indexrelid = 'cards_callerid'::regclass",
        )
        .await;
    let findings = Findings::of(&operator);
    findings.assert_check("objects", "problem", "index cards_callerid is invalid");
    assert_eq!(findings.messages("objects").len(), 3, "{}", findings.0);
    findings.assert_check(
        "stock",
        "problem",
        "1 cards are in stock but cannot be sold, or can be sold but are not in stock",
    );
    findings.assert_check("autovacuum", "warning", "autovacuum is off for cards");
    operator.server.execute("update _sqlx_migrations set success = false where version = 9").await;
    Findings::of(&operator).assert_check("schema", "problem", "missing migrations: 9");
    operator.server.execute("update _sqlx_migrations set version = 9999 where version = 8").await;
    Findings::of(&operator).assert_check("schema", "problem", "last used by a newer Mortise (it has migration 9999)");
}

#[tokio::test]
async fn sequences_near_their_end_are_reported() {
    let operator = Operator::new().await;
    operator.server.execute("select setval('taxes_id_seq', 1200000000)").await;
    Findings::of(&operator).assert_check("ids", "warning", "few ids left: taxes_id_seq (56 %, up to 2147483647)");
    operator.server.execute("select setval('cardgroups_id_seq', 2000000000)").await;
    let names = "cardgroups_id_seq (93 %, up to 2147483647), taxes_id_seq (56 %, up to 2147483647)";
    Findings::of(&operator).assert_check("ids", "problem", names);
}

/// The number of rows is PostgreSQL's estimate, which the test writes itself.
#[tokio::test]
async fn refusals_that_are_never_deleted_are_reported() {
    let operator = Operator::new().await;
    let estimate = "update pg_class set reltuples = 12000000 where relname = 'actions_refusals'";
    operator.server.execute(estimate).await;
    let message = "about 12000000 audit rows of refused requests are stored, and none are ever deleted";
    Findings::of(&operator).assert_check("audit", "warning", message);
    let mut doctor = command(&["doctor"]);
    doctor.env("DATABASE_URL", &operator.url).env("MORTISE_AUDIT_RETENTION_DAYS", "30");
    let output = run_command(doctor, "");
    assert!(output.stdout.contains("ok       audit         about 12000000 audit rows"), "{output:?}");
}

#[tokio::test]
async fn replaced_defaults_are_reported() {
    let operator = Operator::new().await;
    let database = operator.server.rows("select current_database()").await.remove(0);
    let alter = async |change: &str| operator.server.execute(&format!("alter database {database} {change}")).await;
    alter("set default_transaction_isolation = serializable").await;
    alter("set work_mem = '8MB'").await;
    Findings::of(&operator).assert_check(
        "session",
        "ok",
        "they replace these defaults of the database or the role: default_transaction_isolation=serializable",
    );
    alter("set default_transaction_read_only = on").await;
    Findings::of(&operator).assert_check("session", "problem", "default_transaction_read_only is on");
}

#[tokio::test]
async fn rows_with_amounts_that_are_not_numbers_are_named() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "alter table cards drop constraint cards_amounts_finite; update cards set balance = 'NaN' where id in (2, 9);
             alter table currencies drop constraint currencies_rate_finite;
             update currencies set exchange_rate = 'NaN' where id = 3",
        )
        .await;
    let findings = Findings::of(&operator);
    findings.assert_check("objects", "problem", "is missing");
    assert_eq!(
        findings.messages("objects"),
        [
            "constraint cards.cards_amounts_finite is missing; the rows with these ids violate it: 2, 9",
            "constraint currencies.currencies_rate_finite is missing; the rows with these ids violate it: 3"
        ]
    );
}

/// The other checks run although the stock cannot be read.
#[tokio::test]
async fn missing_table_does_not_stop_the_other_checks() {
    let operator = Operator::new().await;
    operator.server.execute("drop view card_stock_differences").await;
    let findings = Findings::of(&operator);
    findings.assert_check("objects", "problem", "view card_stock_differences is missing");
    findings.assert_check("stock", "problem", "the check failed");
    findings.assert_check("pins", "ok", "PINs left");
}

#[tokio::test]
async fn mail_that_waits_or_failed_is_reported() {
    let operator = Operator::new().await;
    let insert = |column: &str, age: &str| {
        format!(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, {column})
             values (0, 0, 'a@b.test', 'm', '{{4}}', '{{1}}', 'USD', now() at time zone 'utc' - interval '{age}')"
        )
    };
    // Not due for delivery: the server does not touch it.
    let waiting = insert("next_attempt_at", "-1 day");
    operator.server.execute(&waiting).await;
    Findings::of(&operator).assert_check("mail", "ok", "e-mails waiting: 1, the oldest for 0 min");
    operator.server.execute("update email_outbox set created_at = created_at - interval '40 minutes'").await;
    Findings::of(&operator).assert_check("mail", "warning", "e-mails waiting: 1, the oldest for 40 min");
    operator.server.execute(&insert("failed_at", "2 hours")).await;
    Findings::of(&operator).assert_check("mail", "warning", "failed permanently within a day: 1");
}

#[tokio::test]
async fn short_secret_keys_are_reported() {
    let operator = Operator::new().await;
    let set = |key: &str, owner: i32| {
        format!("update conflines set value = '{key}' where name = 'API_Secret_Key' and owner_id = {owner}")
    };
    operator.server.execute(&set("0123456789abcdef", 0)).await;
    operator.server.execute(&set("x", 3)).await;
    let message = "secret keys with fewer than 8 characters can be guessed: reseller";
    Findings::of(&operator).assert_check("key length", "problem", message);
    operator.server.execute(&set("0123456789", 3)).await;
    let message = "secret keys with fewer than 16 characters can be guessed: reseller";
    Findings::of(&operator).assert_check("key length", "warning", message);
    operator.server.execute(&set("0123456789abcdef", 3)).await;
    Findings::of(&operator).assert_check("key length", "ok", "no secret key is short");
}

#[tokio::test]
async fn pin_shortage_is_reported() {
    let operator = Operator::new().await;
    operator.server.execute("insert into cardgroups (id, name, pin_length) values (50, 'short', 2)").await;
    let fill = |count: usize| {
        format!(
            "insert into cards (cardgroup_id, number, pin)
             select 50, 'x' || n, 9 + n from generate_series(1, {count}) n"
        )
    };
    operator.server.execute(&fill(16)).await;
    Findings::of(&operator).assert_check("pins", "warning", "only 4 PINs of 2 digits (groups 50) left");
    operator.server.execute("delete from cards where cardgroup_id = 50").await;
    operator.server.execute(&fill(20)).await;
    Findings::of(&operator).assert_check("pins", "problem", "0 PINs of 2 digits (groups 50) left");
}

#[tokio::test]
async fn unusable_settings_and_databases_are_problems() {
    let operator = Operator::new().await;
    let run = |name: &str, value: &str| -> CommandOutput {
        let mut command = command(&["doctor"]);
        command.env("DATABASE_URL", &operator.url).env(name, value);
        run_command(command, "")
    };
    let output = run("MORTISE_LISTEN", "here");
    assert!(
        output.code == 1
            && output.stdout.starts_with("PROBLEM  settings      the setting listen (from MORTISE_LISTEN)"),
        "{output:?}"
    );
    let output = run("MORTISE_MAIL_CA", "/nowhere.pem");
    assert!(
        output.code == 1 && output.stdout.contains("PROBLEM  settings      cannot use mail_ca (/nowhere.pem)"),
        "{output:?}"
    );
    let output = run("MORTISE_DATABASE_CONNECTIONS", "1");
    assert!(output.stdout.contains("ok       schema        all migrations"), "{output:?}");
    let output = run("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/db");
    assert!(
        output.code == 1 && output.stdout.contains("PROBLEM  database      cannot reach the database"),
        "{output:?}"
    );
    assert!(!output.stdout.contains("hunter2") && output.stderr.is_empty(), "{output:?}");
}

/// Of the causes that keep dead rows, only a replication slot can be created without a wait of minutes.
#[tokio::test]
async fn unused_replication_slot_is_reported() {
    let _slots = SLOTS.lock().await;
    let operator = Operator::new().await;
    operator.server.execute("select pg_create_physical_replication_slot('forgotten')").await;
    let findings = Findings::of(&operator);
    operator.server.execute("select pg_drop_replication_slot('forgotten')").await;
    findings.assert_check("snapshots", "warning", "inactive replication slot forgotten");
}
