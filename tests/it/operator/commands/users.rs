//! `mortise user`.

use super::{ADMITTED, Operator};
use crate::harness::{Reply, hash};

const PASSWORD: &str = "correct horse";

async fn log_in(operator: &Operator, user: &str, password: &str) -> Reply {
    let form = format!("u={user}&p={password}&id=11&hash={}", hash("11", "secret"));
    operator.server.post("card_from_group_sell", &form).await
}

async fn insert_permission_group(operator: &Operator) {
    operator.server.execute("insert into acc_groups (id, name, group_type) values (1, 'Clerks', 'accountant')").await;
}

#[tokio::test]
async fn added_user_can_sell() {
    let operator = Operator::new().await;
    insert_permission_group(&operator).await;
    let output = operator.run_with_input(
        &format!("{PASSWORD}\n"),
        &["user", "add", "clerk", "--type", "accountant", "--rights", "clerks"],
    );
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (0, "The accountant clerk was added, with id 101.\n"),
        "{output:?}"
    );
    log_in(&operator, "clerk", PASSWORD).await.assert_page_error(ADMITTED);
    log_in(&operator, "clerk", "wrong").await.assert_status_error("Bad login");
    // The password is stored only as argon2id, and the user has its own taxes row.
    let row = "select password, password_argon2 like '$argon2id$%' as is_argon2id, acc_group_id, owner_id,
               tax_id > 100 as has_own_taxes, currency_id from users where id = 101";
    operator.server.assert_rows(row, &["|true|1|0|true|1"]).await;
    operator.server.execute("update change_log set after = after - 'tax_id'").await;
    operator
        .assert_changes(&["user 101 clerk -> {\"id\": 101, \"credit\": -1.000000000000000, \"hidden\": 0, \"lcr_id\": 0, \
                           \"balance\": 0.000000000000000, \"blocked\": 0, \"owner_id\": 0, \"password\": \"(hidden)\", \
                           \"postpaid\": 1, \"username\": \"clerk\", \"usertype\": \"accountant\", \"last_name\": \"\", \
                           \"tariff_id\": 0, \"time_zone\": \"UTC\", \"first_name\": \"\", \"currency_id\": 1, \
                           \"acc_group_id\": 1, \"password_argon2\": \"(hidden)\"}"])
        .await;
}

#[tokio::test]
async fn invalid_users_are_refused() {
    let operator = Operator::new().await;
    insert_permission_group(&operator).await;
    for (arguments, code, message) in [
        (&["ADMIN ", "--type", "user"][..], 2, "it has the invisible character U+0020 at position 6"),
        (&["ADMIN", "--type", "user"], 1, "the user \"admin\" already exists (id 0)"),
        (&["new", "--type", "boss"], 2, "invalid value 'boss'"),
        (&["new", "--type", "user", "--owner", "unknown"], 3, "there is no user \"unknown\""),
        (&["new", "--type", "accountant", "--rights", "Bosses"], 3, "there is no permission group \"Bosses\""),
        (&["new", "--type", "reseller", "--rights", "Clerks"], 1, "is for users of the type accountant, not reseller"),
    ] {
        let output = operator.run_with_input(PASSWORD, &[&["user", "add"], arguments].concat());
        assert!(output.code == code && output.stderr.contains(message), "{arguments:?}: {output:?}");
    }
    for (password, message) in [
        ("", "the password is empty"),
        ("  \n", "is empty"),
        (" x", "the password has the invisible character U+0020 at position 1"),
        ("hunter2", "the password has fewer than 12 characters"),
        ("ąčęėįšųūžąč", "the password has fewer than 12 characters"),
    ] {
        let output = operator.run_with_input(password, &["user", "add", "new", "--type", "user"]);
        assert!(output.code == 2 && output.stderr.contains(message), "{output:?}");
    }
    operator.server.assert_rows("select count(*) from users", &["11"]).await;
    operator.server.assert_rows("select count(*) from change_log", &["0"]).await;
}

#[tokio::test]
async fn new_password_replaces_the_old_one_at_once() {
    let operator = Operator::new().await;
    log_in(&operator, "admin", "secret password").await.assert_page_error(ADMITTED);
    let output = operator.run_with_input("new password\r\n", &["user", "set-password", "ADMIN"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "The password of admin was set.\n"), "{output:?}");
    log_in(&operator, "admin", "new password").await.assert_page_error(ADMITTED);
    log_in(&operator, "admin", "secret password").await.assert_status_error("Bad login");
    operator.server.assert_rows("select password from users where id = 0", &[""]).await;
    operator
        .assert_changes(&["user 0 admin {\"password\": \"(hidden)\", \"password_argon2\": \"(hidden)\"} -> \
                           {\"password\": \"(hidden)\", \"password_argon2\": \"(hidden)\"}"])
        .await;
    // With --sha1, MOR's own hash is stored as well, for other programs.
    operator.run_with_input("new password", &["user", "set-password", "admin", "--sha1"]);
    let sha1 = hash("new password", "");
    operator.server.assert_rows("select password from users where id = 0", &[&sha1]).await;
    log_in(&operator, "admin", "new password").await.assert_page_error(ADMITTED);
    operator.assert_error(&["user", "set-password", "unknown"], 2, "the password is empty");
    let output = operator.run_with_input(PASSWORD, &["user", "set-password", "unknown"]);
    assert_eq!((output.code, output.stderr.as_str()), (3, "mortise: there is no user \"unknown\"\n"));
}

#[tokio::test]
async fn clear_sha1_deletes_hashes_that_argon2_replaces() {
    let operator = Operator::new().await;
    log_in(&operator, "admin", "secret password").await.assert_page_error(ADMITTED);
    let output = operator.run_ok(&["user", "clear-sha1"]);
    assert_eq!(output, "SHA-1 hashes deleted: 1; left: 10, of users that have not sent their password yet.\n");
    operator.server.assert_rows("select id from users where password = ''", &["0"]).await;
    operator.assert_changes(&["user all users -> {\"sha1_hashes_deleted\": 1}"]).await;
    log_in(&operator, "admin", "secret password").await.assert_page_error(ADMITTED);
}

#[tokio::test]
async fn blocked_user_is_refused_until_unblocked() {
    let operator = Operator::new().await;
    operator.attempt_sale("accountant", "secret").await.assert_page_error(ADMITTED);
    assert_eq!(operator.run_ok(&["user", "block", "accountant"]), "accountant is blocked.\n");
    operator.attempt_sale("accountant", "secret").await.assert_status_error("Bad login");
    assert_eq!(operator.run_ok(&["user", "unblock", "Accountant"]), "accountant is unblocked.\n");
    operator.attempt_sale("accountant", "secret").await.assert_page_error(ADMITTED);
    let changes = [
        "user 6 accountant {\"blocked\": 0} -> {\"blocked\": 1}",
        "user 6 accountant {\"blocked\": 1} -> {\"blocked\": 0}",
    ];
    operator.assert_changes(&changes).await;
    // A command that changes nothing writes no row.
    operator.run_ok(&["user", "unblock", "accountant"]);
    operator.assert_changes(&changes).await;
    let output = operator.run_ok(&["user", "block", "accountant", "--dialect", "x7"]);
    assert!(output.contains("the dialect x7 admits blocked users"), "{output}");
}

#[tokio::test]
async fn users_are_listed_as_table_and_json() {
    let operator = Operator::new().await;
    operator.server.execute("update users set hidden = null where id = 3").await;
    operator.server.execute("update users set blocked = 1, username = E'ev\\033[2Jil' where id = 2").await;
    assert_eq!(
        operator.run_ok(&["user", "list", "--type", "reseller"]),
        "ID  NAME           TYPE      OWNER  RIGHTS  BLOCKED  PASSWORD\n\
         3   reseller       reseller  admin                   sha1\n\
         4   reseller_read  reseller  admin                   sha1\n\
         5   reseller_none  reseller  admin                   sha1\n"
    );
    let list = operator.run_ok(&["user", "list", "--type", "user"]);
    assert!(list.contains("2   ev\u{fffd}[2Jil  user  admin             yes      sha1"), "{list}");
    let users = operator.run_json(&["user", "list"]);
    assert_eq!(users.as_array().unwrap().len(), 11);
    assert_eq!(users[1]["blocked"], true);
    assert_eq!((users[10]["owner"].as_str(), users[10]["type"].as_str()), (Some("reseller"), Some("user")));
}
