//! `mortise doctor`. The tests' own PostgreSQL runs without fsync, which is a problem; `local.rs` has one without any.

use serde_json::Value;
use tokio::sync::Mutex;

use super::{Operator, Said, command, said};

/// The state of every check but those that depend on the tests' machine.
struct Findings(Value);

impl Findings {
    fn of(operator: &Operator) -> Self {
        let said = operator.run(&["doctor", "--json"]);
        assert_eq!((said.code, said.err.as_str()), (1, ""), "{}", said.out);
        Self(serde_json::from_str(&said.out).unwrap())
    }

    fn check(&self, name: &str) -> &Value {
        let checks = self.0["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {}", self.0))
    }

    #[track_caller]
    fn is(&self, name: &str, state: &str, words: &str) {
        let check = self.check(name);
        assert!(check["state"] == state && check["message"].as_str().unwrap().contains(words), "{check}");
        assert_eq!(check["advice"].is_null(), state == "ok", "{check}");
    }
}

/// A replication slot is the whole cluster's: who makes one, or counts warnings, has it to himself.
static SLOTS: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn every_check_says_ok_or_what_to_do() {
    let _slots = SLOTS.lock().await;
    let operator = Operator::new().await;
    operator.server.execute("update cards set sold = 1 where id = 6").await;
    let found = Findings::of(&operator);
    assert_eq!(found.0["ok"], false);
    found.is("durability", "problem", "fsync, full_page_writes is off");
    found.is("get", "warning", "GET is on");
    found.is("cards", "warning", "group 6 (ten dollars): 3");
    for name in [
        "settings",
        "clock",
        "database",
        "autovacuum",
        "schema",
        "indexes",
        "stock",
        "pins",
        "demo key",
        "keys",
        "hashes",
    ] {
        found.is(name, "ok", "");
    }
    let text = operator.run(&["doctor"]).out;
    assert!(text.contains("warning  get           GET is on"), "{text}");
    assert!(
        text.contains("\n                       -> have clients POST, then `mortise setting set Allow_GET_API off`\n"),
        "{text}"
    );
    assert!(text.ends_with("problems: 1, warnings: 2\n"), "{text}");
}

#[tokio::test]
async fn doors_that_stand_open_are_found() {
    let operator = Operator::new().await;
    operator
        .server
        .execute("update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 3;
              delete from conflines where name = 'API_Secret_Key' and owner_id = 0;
              insert into conflines (name, value, owner_id) values ('API_Disable_hash_checking', '1', 3);
              insert into conflines (name, value, value2, owner_id) values ('API_Secret_Key_Previous', 'x', '2020-01-01 00:00:00', 0),
                  ('API_Secret_Key_Previous', 'x', 'soon', 3)")
        .await;
    let found = Findings::of(&operator);
    found.is("demo key", "problem", "MOR's documentation");
    found.is("keys", "warning", "without a secret key of admin");
    found.is("hashes", "problem", "aren't checked for reseller");
    found.is(
        "previous key",
        "warning",
        "admin (until 2020-01-01 00:00:00), reseller (until \"soon\", which is no time)",
    );
    operator
        .server
        .execute("update conflines set value2 = '2999-01-01 00:00:00' where name = 'API_Secret_Key_Previous'")
        .await;
    Findings::of(&operator).is("previous key", "ok", "still counts: admin (until 2999-01-01 00:00:00), reseller");
}

#[tokio::test]
async fn a_damaged_database_is_found() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "drop index cards_pin, users_owner; delete from card_stock where card_id = 2;
              alter table cards set (autovacuum_enabled = off);
              update pg_index set indisvalid = false where indexrelid = 'cards_callerid'::regclass",
        )
        .await;
    let found = Findings::of(&operator);
    found.is("indexes", "problem", "can't be used: cards_callerid");
    found.is("stock", "problem", "1 cards are in stock and shouldn't be, or aren't and should");
    found.is("autovacuum", "warning", "it is off for cards");
    operator
        .server
        .execute("update pg_index set indisvalid = true where indexrelid = 'cards_callerid'::regclass")
        .await;
    Findings::of(&operator).is("indexes", "problem", "missing: cards_pin, users_owner");
    operator.server.execute("update _sqlx_migrations set success = false where version = 9").await;
    Findings::of(&operator).is("schema", "problem", "migrations are missing: 9");
    operator.server.execute("update _sqlx_migrations set version = 9999 where version = 8").await;
    Findings::of(&operator).is("schema", "problem", "last used by a newer Mortise (it has migration 9999)");
}

#[tokio::test]
async fn pins_that_run_out_are_found() {
    let operator = Operator::new().await;
    operator.server.execute("insert into cardgroups (id, name, pin_length) values (50, 'short', 2)").await;
    let fill = |count: usize| {
        format!(
            "insert into cards (cardgroup_id, number, pin) select 50, 'x' || n, 9 + n from generate_series(1, {count}) n"
        )
    };
    operator.server.execute(&fill(16)).await;
    Findings::of(&operator).is("pins", "warning", "only 4 PINs of 2 digits (groups 50) left");
    operator.server.execute("delete from cards where cardgroup_id = 50").await;
    operator.server.execute(&fill(20)).await;
    Findings::of(&operator).is("pins", "problem", "0 PINs of 2 digits (groups 50) left");
}

#[tokio::test]
async fn settings_and_databases_that_cannot_be_used_are_problems() {
    let operator = Operator::new().await;
    let run = |name: &str, value: &str| -> Said {
        let mut command = command(&["doctor"]);
        command.env("DATABASE_URL", &operator.url).env(name, value);
        said(command, "")
    };
    let broken = run("MORTISE_LISTEN", "here");
    assert!(
        broken.code == 1 && broken.out.starts_with("PROBLEM  settings      the setting listen (from MORTISE_LISTEN)"),
        "{broken:?}"
    );
    let broken = run("MORTISE_MAIL_CA", "/nowhere.pem");
    assert!(broken.code == 1 && broken.out.contains("PROBLEM  settings      mail_ca (/nowhere.pem)"), "{broken:?}");
    let one = run("MORTISE_DATABASE_CONNECTIONS", "1");
    assert!(one.out.contains("ok       schema        every migration"), "{one:?}");
    let away = run("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/db");
    assert!(away.code == 1 && away.out.contains("PROBLEM  database      cannot reach the database"), "{away:?}");
    assert!(!away.out.contains("hunter2") && away.err.is_empty(), "{away:?}");
}

/// Of what keeps dead rows, one thing can be made without waiting for minutes.
#[tokio::test]
async fn what_keeps_dead_rows_is_found() {
    let _slots = SLOTS.lock().await;
    let operator = Operator::new().await;
    operator.server.execute("select pg_create_physical_replication_slot('forgotten')").await;
    let found = Findings::of(&operator);
    operator.server.execute("select pg_drop_replication_slot('forgotten')").await;
    found.is("snapshots", "warning", "replication slot forgotten, which nobody reads");
}
