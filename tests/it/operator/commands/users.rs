//! `mortise user`.

use super::{ADMITTED, Operator};
use crate::harness::{Reply, hash};

const PASSWORD: &str = "correct horse";

async fn log_in(operator: &Operator, user: &str, password: &str) -> Reply {
    let form = format!("u={user}&p={password}&id=11&hash={}", hash("11", "secret"));
    operator.server.post("card_from_group_sell", &form).await
}

async fn group_of_accountants(operator: &Operator) {
    operator.server.execute("insert into acc_groups (id, name, group_type) values (1, 'Clerks', 'accountant')").await;
}

#[tokio::test]
async fn a_user_who_is_added_can_sell() {
    let operator = Operator::new().await;
    group_of_accountants(&operator).await;
    let said = operator
        .send(&format!("{PASSWORD}\n"), &["user", "add", "clerk", "--type", "accountant", "--rights", "clerks"]);
    assert_eq!((said.code, said.out.as_str()), (0, "The accountant clerk was added, with id 101.\n"), "{said:?}");
    log_in(&operator, "clerk", PASSWORD).await.assert_page_error(ADMITTED);
    log_in(&operator, "clerk", "wrong").await.assert_status_error("Bad login");
    // Only as argon2id, and with taxes of its own.
    let row = "select password, password_argon2 like '$argon2id$%' as strong, acc_group_id, owner_id, tax_id > 100 as own_taxes,
               currency_id from users where id = 101";
    operator.server.assert_rows(row, &["|true|1|0|true|1"]).await;
    operator.noted(&["0|user_created|User|101|clerk|"]).await;
    operator.server.assert_rows("select data4 from actions", &["mortise command of ann"]).await;
}

#[tokio::test]
async fn who_cannot_be_added_is_refused() {
    let operator = Operator::new().await;
    group_of_accountants(&operator).await;
    for (arguments, code, words) in [
        (&["ADMIN ", "--type", "user"][..], 2, "no spaces around it"),
        (&["ADMIN", "--type", "user"], 1, "there is a user \"admin\" already (id 0)"),
        (&["new", "--type", "boss"], 2, "invalid value 'boss'"),
        (&["new", "--type", "user", "--owner", "nobody"], 3, "there is no user \"nobody\""),
        (&["new", "--type", "accountant", "--rights", "Bosses"], 3, "there is no permission group \"Bosses\""),
        (&["new", "--type", "reseller", "--rights", "Clerks"], 1, "is for users of the type accountant, not reseller"),
    ] {
        let said = operator.send(PASSWORD, &[&["user", "add"], arguments].concat());
        assert!(said.code == code && said.err.contains(words), "{arguments:?}: {said:?}");
    }
    for (password, words) in
        [("", "the password is empty"), ("  \n", "is empty"), (" x", "begins or ends with a space")]
    {
        let said = operator.send(password, &["user", "add", "new", "--type", "user"]);
        assert!(said.code == 2 && said.err.contains(words), "{said:?}");
    }
    operator.server.assert_rows("select count(*) from users", &["11"]).await;
    operator.server.assert_rows("select count(*) from actions", &["0"]).await;
}

#[tokio::test]
async fn a_new_password_counts_at_once_and_the_old_one_no_more() {
    let operator = Operator::new().await;
    log_in(&operator, "admin", "secret password").await.assert_page_error(ADMITTED);
    let said = operator.send("new password\r\n", &["user", "set-password", "ADMIN"]);
    assert_eq!((said.code, said.out.as_str()), (0, "The password of admin was set.\n"), "{said:?}");
    log_in(&operator, "admin", "new password").await.assert_page_error(ADMITTED);
    log_in(&operator, "admin", "secret password").await.assert_status_error("Bad login");
    operator.server.assert_rows("select password from users where id = 0", &[""]).await;
    operator.noted(&["0|user_password_changed|User|0|admin|"]).await;
    // For other programs MOR's own form stays beside it.
    operator.send("new password", &["user", "set-password", "admin", "--sha1"]);
    let sha1 = hash("new password", "");
    operator.server.assert_rows("select password from users where id = 0", &[&sha1]).await;
    log_in(&operator, "admin", "new password").await.assert_page_error(ADMITTED);
    operator.refuses(&["user", "set-password", "nobody"], 2, "the password is empty");
    let said = operator.send("x", &["user", "set-password", "nobody"]);
    assert_eq!((said.code, said.err.as_str()), (3, "mortise: there is no user \"nobody\"\n"));
}

#[tokio::test]
async fn sha1_is_forgotten_where_something_better_stands() {
    let operator = Operator::new().await;
    log_in(&operator, "admin", "secret password").await.assert_page_error(ADMITTED);
    let said = operator.says(&["user", "forget-sha1"]);
    assert_eq!(said, "1 SHA-1 passwords were emptied; 10 are left, of users who haven't sent their password yet.\n");
    operator.server.assert_rows("select id from users where password = ''", &["0"]).await;
    log_in(&operator, "admin", "secret password").await.assert_page_error(ADMITTED);
}

#[tokio::test]
async fn a_blocked_user_stays_out_until_unblocked() {
    let operator = Operator::new().await;
    operator.ask("accountant", "secret").await.assert_page_error(ADMITTED);
    assert_eq!(operator.says(&["user", "block", "accountant"]), "accountant is blocked.\n");
    operator.ask("accountant", "secret").await.assert_status_error("Bad login");
    assert_eq!(operator.says(&["user", "unblock", "Accountant"]), "accountant is let in again.\n");
    operator.ask("accountant", "secret").await.assert_page_error(ADMITTED);
    operator.noted(&["0|user_blocked|User|6|accountant|", "0|user_unblocked|User|6|accountant|"]).await;
    let said = operator.says(&["user", "block", "accountant", "--dialect", "x7"]);
    assert!(said.contains("the dialect x7 lets blocked users in"), "{said}");
}

#[tokio::test]
async fn users_are_listed_for_people_and_scripts() {
    let operator = Operator::new().await;
    operator.server.execute("update users set blocked = 1, username = E'ev\\033[2Jil' where id = 2").await;
    assert_eq!(
        operator.says(&["user", "list", "--type", "reseller"]),
        "ID  NAME           TYPE      OWNER  RIGHTS  BLOCKED  PASSWORD\n\
         3   reseller       reseller  admin                   sha1\n\
         4   reseller_read  reseller  admin                   sha1\n\
         5   reseller_none  reseller  admin                   sha1\n"
    );
    let evil = operator.says(&["user", "list", "--type", "user"]);
    assert!(evil.contains("2   ev\u{fffd}[2Jil  user  admin             yes      sha1"), "{evil}");
    let users = operator.json(&["user", "list"]);
    assert_eq!(users.as_array().unwrap().len(), 11);
    assert_eq!(users[1]["blocked"], true);
    assert_eq!((users[10]["owner"].as_str(), users[10]["type"].as_str()), (Some("reseller"), Some("user")));
}
