//! Databases with other encodings, which are refused, and with other collations, which make no difference.

use std::process::Command;

use sqlx::AssertSqlSafe;

use crate::harness::{FIXTURE_SQL, Server, hash, postgres, server_on_database};

/// Runs a command of the program on the database; returns exit code, standard output and standard error.
async fn run(database: &str, arguments: &[&str]) -> (i32, String, String) {
    let url = format!("postgres://postgres@localhost/{database}?host={}", postgres::socket_dir().await.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
    let output = command.args(arguments).current_dir("/").env("DATABASE_URL", url).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn other_encodings_are_refused() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database =
            postgres::create_empty_database(&format!("encoding '{encoding}' lc_collate 'C' lc_ctype 'C'")).await;
        // An address that the machine does not have: a server that gets as far as listening fails.
        for arguments in [&["serve", "--listen", "192.0.2.1:1"][..], &["migrate"], &["user", "list"]] {
            let (code, _, stderr) = run(&database, arguments).await;
            assert!(
                code == 4
                    && stderr.contains(&format!("has the encoding {encoding}, and Mortise needs UTF8"))
                    && stderr.contains("create database NAME encoding 'UTF8' template template0"),
                "{arguments:?}: {stderr}"
            );
        }
        let (code, findings, _) = run(&database, &["doctor"]).await;
        assert!(
            code == 1 && findings.contains("PROBLEM  session       the database has the encoding"),
            "{encoding}: {findings}"
        );
    }
}

/// In Turkish, the lower case of I is ı, and the upper case of i is İ.
async fn turkish_server(settings: &[(&str, &str)]) -> Server {
    let options = "encoding 'UTF8' locale_provider icu icu_locale 'tr' locale 'C.UTF-8'";
    let database = postgres::create_empty_database(options).await;
    let (code, _, stderr) = run(&database, &["migrate"]).await;
    assert_eq!(code, 0, "{stderr}");
    let server = server_on_database(&database, settings).await;
    sqlx::raw_sql(AssertSqlSafe(FIXTURE_SQL.to_owned())).execute(&server.pool).await.unwrap();
    server
        .execute(
            "insert into users (id, username, usertype, owner_id, acc_group_id, tax_id, currency_id) values
                 (20, 'SHIRIN', 'accountant', 0, 1, 1, 1), (21, 'Ätzend', 'accountant', 0, 1, 1, 1);
             insert into currencies (id, name, exchange_rate, active) values (9, 'INR', 2, 1);
             insert into acc_rights (id, name, right_type) values (9, 'CALLINGCARD_PIN', 'accountant');
             insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 9, 2);
             update cards set name = 'VISITOR', callerid = '37012' where id = 1",
        )
        .await;
    assert_eq!(server.rows("select lower('I')").await, ["ı"]);
    server
}

#[tokio::test]
async fn users_are_found_in_a_turkish_database() {
    let server = turkish_server(&[]).await;
    for name in ["admin", "ADMIN", "Admin", "shirin", "SHIRIN", "Shirin", "ätzend", "ÄTZEND"] {
        let reply = server.post_signed("card_from_group_sell", &format!("u={name}&id=11&quantity=1"), "111").await;
        reply.assert_page_error("Free cards was not found");
    }
    let database = server.rows("select current_database()").await.remove(0);
    let (code, _, stderr) = run(&database, &["user", "block", "shirin"]).await;
    assert_eq!(code, 0, "{stderr}");
}

#[tokio::test]
async fn cards_are_sold_and_found_in_a_turkish_database() {
    let server = turkish_server(&[]).await;
    let sold = server.post_signed("card_from_group_sell", "u=Shirin&id=6&quantity=1&curr=inr", "61").await;
    assert_eq!(sold.element_texts("number"), ["0000000042"], "{}", sold.body);
    assert_eq!(sold.element_texts("currency"), ["INR"], "{}", sold.body);
    // The right callingcard_pin is needed to read PINs, and the pattern is in another letter case than the name.
    let form = format!("u=shirin&name=visi%25&hash={}", hash("", "secret"));
    let list = server.post("calling_cards_get", &form).await;
    assert_eq!(list.element_texts("card_name"), ["VISITOR"], "{}", list.body);
    assert_eq!(list.element_texts("card_pin"), ["1003"], "{}", list.body);
}

/// The index is used, although the function in it is not the database's `lower`.
#[tokio::test]
async fn users_are_found_by_index() {
    let server = turkish_server(&[]).await;
    let plan = server.query_plan(&["from users where fold_case(rtrim(username))", "password_argon2"], "auto", &["'x'"]);
    let plan = plan.await;
    assert!(plan.contains("using users_username on users"), "{plan}");
}
