//! `mortise console`: the accounts of the console.

use std::process::Stdio;

use mortise::auth::passwords;
use mortise::console::{accounts, totp};

use super::{CommandOutput, Operator, command, run_command};
use crate::harness::process;

const PASSWORD: &str = "correct horse battery";

/// Adds an account; returns the output.
fn add(operator: &Operator, arguments: &[&str]) -> CommandOutput {
    operator.run_with_input(&format!("{PASSWORD}\n"), &[&["console", "add"], arguments].concat())
}

#[track_caller]
fn assert_added(output: &CommandOutput, message: &str) {
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    assert!(output.stdout.starts_with(message), "{output:?}");
}

/// The secret of a key URI in a text.
fn read_secret(text: &str) -> Vec<u8> {
    let secret = text.split("?secret=").nth(1).unwrap().split('&').next().unwrap();
    let bits = secret.chars().fold(String::new(), |bits, char| {
        let value = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(char).unwrap();
        format!("{bits}{value:05b}")
    });
    bits.as_bytes().chunks(8).map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap()).collect()
}

/// Whether the account's password is right, and the present code of the secret.
async fn can_log_in(operator: &Operator, name: &str, password: &str, secret: &[u8]) -> bool {
    let mut connection = operator.server.pool.acquire().await.unwrap();
    let account = accounts::find(&mut connection, name).await.unwrap().unwrap();
    let now = operator.server.rows("select extract(epoch from now())::bigint").await;
    let code = totp::code_at(secret, totp::step_at(now[0].parse().unwrap())).unwrap();
    passwords::is_argon2(&account.password_argon2, password)
        && account.spend_code(&mut connection, &code).await.unwrap().is_some()
}

/// An admin gets a second factor at once: the text, the QR code and the key are the same secret.
#[tokio::test]
async fn added_admin_gets_a_second_factor() {
    let operator = Operator::new().await;
    let output = add(&operator, &["Ann"]);
    assert_added(&output, "The account Ann was created, with the role admin.\nScan this code");
    assert!(output.stdout.contains("\notpauth://totp/Mortise:Ann?secret="), "{output:?}");
    // The QR code: half blocks, as high as wide.
    let code_lines = output.stdout.lines().filter(|line| line.contains(['█', '▀', '▄'])).count();
    assert!((15..40).contains(&code_lines), "{code_lines} lines: {}", output.stdout);
    let secret = read_secret(&output.stdout);
    assert_eq!(secret.len(), totp::SECRET_BYTES);
    let typed = output.stdout.lines().last().unwrap().strip_prefix("Without a camera, type the key: ").unwrap();
    assert_eq!(typed, totp::base32(&secret));
    assert!(can_log_in(&operator, "ann", PASSWORD, &secret).await);
    operator
        .server
        .assert_rows(
            "select role, user_id, can_reveal_pins, is_demo, password_argon2 like '$argon2id$%' as is_hashed, blocked_at
             from console_accounts",
            &["admin|∅|false|false|true|∅"],
        )
        .await;
    operator.assert_changes(&["console_account 1 Ann -> {\"role\": \"admin\", \"can_reveal_pins\": false}"]).await;
    // Neither the secret nor the password is in the log of changes.
    operator.server.assert_rows("select count(*) from change_log where after::text like '%secret%'", &["0"]).await;
}

#[tokio::test]
async fn accounts_of_other_roles_have_no_second_factor_yet() {
    let operator = Operator::new().await;
    for (arguments, row) in [
        (&["help", "--role", "support", "--reveal-pins"][..], "support|∅|true|false"),
        (&["shop", "--role", "reseller", "--user", "RESELLER"], "reseller|3|false|false"),
        (&["auditor", "--role", "read-only"], "read_only|∅|false|false"),
    ] {
        let output = add(&operator, arguments);
        assert_added(&output, &format!("The account {} was created, with the role {}.", arguments[0], arguments[2]));
        assert!(!output.stdout.contains("otpauth"), "{output:?}");
        let query = format!(
            "select role, user_id, can_reveal_pins, totp_secret is not null as has_secret
             from console_accounts where name = '{}'",
            arguments[0]
        );
        operator.server.assert_rows(&query, &[row]).await;
    }
    let listed = operator.run_ok(&["console", "list"]);
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "NAME ROLE USER PINS SECOND FACTOR BLOCKED LAST SEEN (UTC)");
    assert_eq!(lines[1], ["auditor", "read-only", "no", "no", "no"]);
    assert_eq!(lines[2], ["help", "support", "yes", "no", "no"]);
    assert_eq!(lines[3], ["shop", "reseller", "reseller", "no", "no", "no"]);
    let json = operator.run_json(&["console", "list"]);
    assert_eq!(json[2]["user"], "reseller", "{json}");
    assert!(json[2]["last_seen"].is_null() && json[0].get("password_argon2").is_none(), "{json}");
}

#[tokio::test]
async fn the_right_to_pins_is_given_and_taken_away() {
    let operator = Operator::new().await;
    for (name, role) in [("help", "support"), ("auditor", "read-only")] {
        assert_added(&add(&operator, &[name, "--role", role]), &format!("The account {name} was created"));
    }
    operator.server.execute("truncate change_log restart identity").await;
    let rights = "select can_reveal_pins from console_accounts order by id";
    let text = operator.run_ok(&["console", "pins", "help", "on"]);
    assert_eq!(text, "The account help has the right to PINs.\n");
    operator.server.assert_rows(rights, &["true", "false"]).await;
    let change = "console_account 1 help {\"can_reveal_pins\": false} -> {\"can_reveal_pins\": true}";
    operator.assert_changes(&[change]).await;
    let refused = operator.run(&["console", "pins", "auditor", "on"]);
    assert!(refused.code == 1 && refused.stderr.contains("do not get the right to PINs"), "{refused:?}");
    operator.run_ok(&["console", "pins", "help", "off"]);
    operator.server.assert_rows(rights, &["false", "false"]).await;
}

#[tokio::test]
async fn invalid_accounts_are_refused() {
    let operator = Operator::new().await;
    assert_added(&add(&operator, &["Ann"]), "The account Ann");
    let long = "n".repeat(256);
    for (arguments, code, message) in [
        (&["ann"][..], 1, "there is an account ann already"),
        (&["bob", "--role", "boss"], 2, "invalid value 'boss'"),
        (&["bob", "--role", "reseller"], 2, "--user <USER>"),
        (&["bob", "--role", "reseller", "--user", "unknown"], 3, "there is no user \"unknown\""),
        (&["bob", "--role", "support", "--user", "reseller"], 2, "--user is for the role reseller only"),
        (&["bob", "--role", "read-only", "--reveal-pins"], 2, "--reveal-pins is not for the role read-only"),
        (&["bob "], 2, "invisible character U+0020"),
        (&[""], 2, "1 to 255 characters"),
        (&[&long], 2, "1 to 255 characters"),
    ] {
        let output = add(&operator, arguments);
        assert!(output.code == code && output.stderr.contains(message), "{arguments:?}: {output:?}");
    }
    for (password, message) in
        [("", "the password is empty"), ("short enough", "ok"), ("short", "the password has fewer than 12 characters")]
    {
        let output = operator.run_with_input(password, &["console", "add", "carl", "--role", "support"]);
        match message {
            "ok" => assert_eq!(output.code, 0, "{output:?}"),
            _ => assert!(output.code == 2 && output.stderr.contains(message), "{output:?}"),
        }
    }
    operator.server.assert_rows("select name from console_accounts order by id", &["Ann", "carl"]).await;
    for subcommand in ["block", "unblock", "second-factor"] {
        operator.assert_error(&["console", subcommand, "nemo"], 3, "there is no console account \"nemo\"");
    }
    let output = operator.run_with_input(PASSWORD, &["console", "password", "nemo"]);
    assert!(output.code == 3 && output.stderr.contains("there is no console account \"nemo\""), "{output:?}");
}

const SESSIONS: &str =
    "select a.name from console_sessions s join console_accounts a on a.id = s.account_id order by s.id";

/// Each account has a session.
async fn insert_sessions(operator: &Operator) {
    operator
        .server
        .execute(
            "delete from console_sessions;
             insert into console_sessions (secret_sha256, account_id, client, browser)
             select sha256(name::bytea), id, '192.0.2.1', 'Test' from console_accounts order by id",
        )
        .await;
}

#[tokio::test]
async fn block_password_and_second_factor_end_the_sessions() {
    let operator = Operator::new().await;
    let first = read_secret(&add(&operator, &["Ann"]).stdout);
    add(&operator, &["Bob", "--role", "support"]);
    let blocked = "select name from console_accounts where blocked_at is not null";
    insert_sessions(&operator).await;
    let text = operator.run_ok(&["console", "block", "BOB"]);
    assert_eq!(text, "The account BOB was blocked, and its sessions have ended.\n");
    operator.server.assert_rows(SESSIONS, &["Ann"]).await;
    operator.server.assert_rows(blocked, &["Bob"]).await;
    assert_eq!(operator.run_ok(&["console", "unblock", "bob"]), "The account bob was unblocked.\n");
    operator.server.assert_rows(blocked, &[]).await;
    operator
        .assert_changes(&[
            r#"console_account 2 Bob {"blocked": false} -> {"blocked": true}"#,
            r#"console_account 2 Bob {"blocked": true} -> {"blocked": false}"#,
        ])
        .await;

    insert_sessions(&operator).await;
    let output = operator.run_with_input("another good password\n", &["console", "password", "Ann"]);
    let text = "The password of Ann was set, and the sessions of the account have ended.\n";
    assert_eq!((output.code, output.stdout.as_str()), (0, text), "{output:?}");
    operator.server.assert_rows(SESSIONS, &["Bob"]).await;
    assert!(!can_log_in(&operator, "Ann", PASSWORD, &first).await);
    operator
        .assert_changes(&[
            r#"console_account 1 Ann {"password_argon2": "(hidden)"} -> {"password_argon2": "(hidden)"}"#,
        ])
        .await;
    let short = operator.run_with_input("short\n", &["console", "password", "Ann"]);
    assert!(short.code == 2 && short.stderr.contains("fewer than 12 characters"), "{short:?}");

    insert_sessions(&operator).await;
    operator
        .server
        .execute("insert into console_recovery_codes (code_sha256, account_id) values ('a', 1), ('b', 2)")
        .await;
    let text = operator.run_ok(&["console", "second-factor", "Ann"]);
    assert!(text.starts_with("The account Ann has a new second factor. Its sessions have ended.\n"), "{text}");
    operator.server.assert_rows(SESSIONS, &["Bob"]).await;
    // The recovery codes belonged to the lost phone.
    operator.server.assert_rows("select account_id from console_recovery_codes", &["2"]).await;
    let second = read_secret(&text);
    assert_ne!(first, second);
    assert!(!can_log_in(&operator, "Ann", "another good password", &first).await);
    assert!(can_log_in(&operator, "Ann", "another good password", &second).await);
    operator.assert_changes(&[r#"console_account 1 Ann {"new_secret": false} -> {"new_secret": true}"#]).await;
}

#[tokio::test]
async fn json_has_the_key_once() {
    let operator = Operator::new().await;
    let output = operator.run_with_input(PASSWORD, &["console", "add", "Ann & Co", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["name"], "Ann & Co");
    let uri = json["otpauth"].as_str().unwrap();
    assert!(
        uri.starts_with("otpauth://totp/Mortise:Ann%20%26%20Co?secret=") && uri.ends_with("&issuer=Mortise"),
        "{uri}"
    );
    let list = operator.run_json(&["console", "list"]).to_string();
    assert!(!list.contains("otpauth") && !list.contains(uri.split("secret=").nth(1).unwrap()), "{list}");
}

/// The ended sessions and old forms are deleted while the server runs, also if no one logs in.
#[tokio::test]
async fn ended_sessions_are_deleted_in_the_background() {
    let operator = Operator::new().await;
    add(&operator, &["Ann"]);
    operator
        .server
        .execute(
            "insert into console_sessions (secret_sha256, account_id, created_at, last_seen_at, client, browser)
             select sha256(i::text::bytea), 1, now() at time zone 'utc' - created, now() at time zone 'utc' - seen, i::text, ''
             from (values (1, interval '1 hour', interval '31 minutes'), (2, '13 hours', '1 minute'), (3, '11 hours', '29 minutes'))
                 session (i, created, seen);
             insert into console_submissions (id, account_id, created_at) values
                 ('old', 1, now() at time zone 'utc' - interval '49 hours'), ('new', 1, now() at time zone 'utc' - interval '47 hours')",
        )
        .await;
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0"]);
    serve.env("DATABASE_URL", &operator.url).stdout(Stdio::null()).stderr(Stdio::piped());
    let program = process::start(serve);
    operator.server.wait_for_rows("select client from console_sessions", |rows| rows == ["3"]).await;
    operator.server.wait_for_rows("select id from console_submissions", |rows| rows == ["new"]).await;
    program.kill();
}

/// `mortise doctor` about the console.
#[tokio::test]
async fn doctor_checks_the_console() {
    let operator = Operator::new().await;
    let check = |listen: &str, url: &str| {
        let mut doctor = command(&["doctor"]);
        doctor.env("DATABASE_URL", &operator.url).env("MORTISE_CONSOLE_LISTEN", listen).env("MORTISE_CONSOLE_URL", url);
        let output = run_command(doctor, "").stdout;
        let start = output.lines().position(|line| line.split_whitespace().nth(1) == Some("console")).unwrap();
        output.lines().skip(start).take(2).collect::<Vec<_>>().join("\n")
    };
    let assert_check = |(listen, url): (&str, &str), state: &str, message: &str| {
        let found = check(listen, url);
        assert!(found.starts_with(state) && found.contains(message), "{found}");
    };
    let local = ("127.0.0.1:3001", "");
    assert_check(("", ""), "ok", "the console is off");
    assert_check(("0.0.0.0:3001", ""), "PROBLEM", "console_url is empty\n");
    assert_check(("0.0.0.0:3001", ""), "PROBLEM", "-> set console_url");
    assert_check(local, "warning", "there is no account to log in with");
    add(&operator, &["Ann"]);
    assert_check(local, "ok", "listens on 127.0.0.1:3001; accounts: 1");
    assert_check(("0.0.0.0:3001", "https://console.example.com"), "ok", "listens on 0.0.0.0:3001");
    operator.server.execute("update console_accounts set totp_secret = null").await;
    assert_check(local, "warning", "admins without a second factor: Ann");
    // A blocked account does not count.
    operator.run_ok(&["console", "block", "Ann"]);
    assert_check(local, "warning", "there is no account to log in with");
    add(&operator, &["shop", "--role", "reseller", "--user", "reseller"]);
    assert_check(local, "ok", "accounts: 1");
    operator.server.execute("update console_accounts set user_id = 6 where name = 'shop'").await;
    assert_check(local, "warning", "is no reseller: shop");
    operator.run_ok(&["console", "block", "shop"]);
    operator
        .server
        .execute(
            "insert into console_accounts (name, role, is_demo, password_argon2) values ('demo', 'admin', true, '')",
        )
        .await;
    assert_check(("", ""), "warning", "the password of its account demo is public");
    operator
        .server
        .execute("update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 0")
        .await;
    assert_check(("", ""), "ok", "the console is off");
}

/// A console that other machines can reach needs its address.
#[tokio::test]
async fn console_without_url_does_not_start_on_other_addresses() {
    let operator = Operator::new().await;
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0"]);
    serve.env("DATABASE_URL", &operator.url).env("MORTISE_CONSOLE_LISTEN", "0.0.0.0:0");
    let output = run_command(serve, "");
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("set console_url to the address that users see, https://…"), "{output:?}");
}
