//! The checks of admission and their order (`http.md`, "Admission"), tested with `card_from_group_sell`.

use std::time::Instant;

use mortise::audit::{AuditQueue, AuditRow};

use crate::harness::{Reply, Server, hash, server, server_with_settings, with_timeout, x7_server};

const SELL: &str = "card_from_group_sell";

/// Sends a sale from an empty group. If it is admitted, the reply is `Free cards was not found`.
async fn sell(server: &Server, user: &str, key: &str) -> Reply {
    server.post(SELL, &format!("u={user}&id=11&hash={}", hash("11", key))).await
}

#[tokio::test]
async fn checks_run_in_the_order_of_the_contract() {
    let server = server().await;
    // At first every check fails. Each step then fixes the cause of the previous refusal.
    server
        .execute(
            "update conflines set value = '0' where name in ('Allow_API', 'Allow_GET_API');
             update conflines set value = '' where name = 'API_Secret_Key';
             update acc_group_rights set value = 0 where acc_group_id = 1",
        )
        .await;
    let get = |user: &str| format!("/billing/api/{SELL}?u={user}&id=999&hash=wrong");
    server.get(&get("unknown")).await.assert_status_error("Bad login");
    server.get(&get("accountant")).await.assert_status_error("API Requests are disabled");
    server.execute("update conflines set value = '1' where name = 'Allow_API' and owner_id = 0").await;
    server.get(&get("accountant")).await.assert_status_error("GET Requests are disabled");
    server.execute("update conflines set value = '1' where name = 'Allow_GET_API'").await;
    server.get(&get("accountant")).await.assert_status_error("API must have Secret Key");
    server.execute("update conflines set value = 'new' where name = 'API_Secret_Key' and owner_id = 0").await;
    server.get(&get("accountant")).await.assert_status_error("Incorrect hash");
    let right = get("accountant").replace("wrong", &hash("999", "new"));
    server.get(&right).await.assert_status_error("Access Denied");
    server.execute("update acc_group_rights set value = 1 where acc_group_id = 1").await;
    server.get(&right).await.assert_page_error("Cardgroup was not found");
}

#[tokio::test]
async fn unknown_user_is_refused() {
    let server = server().await;
    server.post(SELL, "id=11").await.assert_status_error("Bad login");
    server.post(SELL, "u=&id=11").await.assert_status_error("Bad login");
    sell(&server, "unknown", "secret").await.assert_status_error("Bad login");
    sell(&server, "+admin", "secret").await.assert_status_error("Bad login");
    for name in ["admin", "ADMIN", "Admin++"] {
        sell(&server, name, "secret").await.assert_page_error("Free cards was not found");
    }
}

#[tokio::test]
async fn lowest_id_counts_for_duplicate_user_names() {
    let server = server().await;
    server.execute("update users set username = 'Accountant' where id = 10").await;
    sell(&server, "accountant", "secret").await.assert_page_error("Free cards was not found");
    server
        .execute(
            "update users set username = 'PARTNER' where id = 6; update users set username = 'partner' where id = 10",
        )
        .await;
    sell(&server, "partner", "secret").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn blocked_and_hidden_users_are_refused_except_by_x7() {
    let (server, x7) = (server().await, x7_server().await);
    for column in ["blocked", "hidden"] {
        let sql = format!("update users set blocked = 0, hidden = 0; update users set {column} = 1 where id = 6");
        server.execute(&sql).await;
        x7.execute(&sql).await;
        sell(&server, "accountant", "secret").await.assert_status_error("Bad login");
        sell(&x7, "accountant", "secret").await.assert_page_error("Free cards was not found");
    }
    // MOR's column may be NULL.
    server.execute("update users set blocked = 0, hidden = null").await;
    sell(&server, "accountant", "secret").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn calling_cards_need_the_permission() {
    let server = server().await;
    server.execute("update conflines set value = '' where owner_id = 3 and name = 'API_Secret_Key'").await;
    for (user, admitted) in [
        ("admin", true),
        ("accountant", true),
        ("accountant_read", true),
        ("accountant_zero", false),
        ("accountant_none", false),
        ("reseller", true),
        ("reseller_read", false),
        ("reseller_none", false),
        ("user", false),
        ("partner", false),
    ] {
        let reply = sell(&server, user, "secret").await;
        match (admitted, user) {
            (true, "reseller") => reply.assert_page_error("Cardgroup was not found"),
            (true, _) => reply.assert_page_error("Free cards was not found"),
            (false, _) => reply.assert_status_error("Access Denied"),
        }
    }
}

#[tokio::test]
async fn permission_names_ignore_letter_case() {
    let server = server().await;
    server.execute("update acc_rights set name = 'CALLINGCARD_MANAGE' where id = 1").await;
    sell(&server, "accountant", "secret").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn password_is_checked_if_sent() {
    let server = server().await;
    let sell = async |password: &str| server.post_signed(SELL, &format!("u=admin&id=11{password}"), "11").await;
    sell("").await.assert_page_error("Free cards was not found");
    sell("&p=wrong").await.assert_status_error("Bad login");
    sell("&p=").await.assert_status_error("Bad login");
    server.assert_rows("select password_argon2 from users where id = 0", &["∅"]).await;
    sell("&p=secret+password").await.assert_page_error("Free cards was not found");
    // The first successful login stores an argon2id hash, which is checked from then on.
    server
        .assert_rows("select password_argon2 like '$argon2id$%' as is_argon2id from users where id = 0", &["true"])
        .await;
    server.execute("update users set password = '' where id = 0").await;
    sell("&p=secret+password").await.assert_page_error("Free cards was not found");
    sell("&p=wrong").await.assert_status_error("Bad login");
    server.assert_rows("select password_argon2 is null as is_null from users where id = 0", &["false"]).await;
}

#[tokio::test]
async fn new_sha1_password_replaces_the_argon2_hash() {
    let server = server().await;
    let sell = async |password: &str| server.post_signed(SELL, &format!("u=admin&id=11&p={password}"), "11").await;
    sell("secret+password").await.assert_page_error("Free cards was not found");
    server.execute(&format!("update users set password = '{}' where id = 0", hash("another", ""))).await;
    server.assert_rows("select password_argon2 from users where id = 0", &["∅"]).await;
    sell("secret+password").await.assert_status_error("Bad login");
    sell("another").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn deleted_argon2_hash_invalidates_the_password() {
    let server = server().await;
    let sell = async || server.post_signed(SELL, "u=admin&id=11&p=secret+password", "11").await;
    sell().await.assert_page_error("Free cards was not found");
    server.execute("update users set password = ''").await;
    sell().await.assert_page_error("Free cards was not found");
    server.execute("update users set password_argon2 = null").await;
    sell().await.assert_status_error("Bad login");
}

#[tokio::test]
async fn password_can_be_required_and_x7_ignores_it_by_default() {
    let x7 = x7_server().await;
    x7.post_signed(SELL, "u=admin&id=11&p=wrong", "11").await.assert_page_error("Free cards was not found");
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("require_password", "true"), ("dialect", dialect)]).await;
        server.post_signed(SELL, "u=admin&id=11", "11").await.assert_status_error("Bad login");
        server.post_signed(SELL, "u=admin&id=11&p=wrong", "11").await.assert_status_error("Bad login");
        server
            .post_signed(SELL, "u=admin&id=11&p=secret+password", "11")
            .await
            .assert_page_error("Free cards was not found");
    }
}

#[tokio::test]
async fn api_is_enabled_by_the_owner_or_for_resellers_by_the_admin() {
    let server = server().await;
    let disable_api = |owners: &str| {
        format!(
            "update conflines set value = '1' where name = 'Allow_API';
             update conflines set value = '0' where name = 'Allow_API' and owner_id in ({owners})"
        )
    };
    server.execute(&disable_api("0")).await;
    sell(&server, "admin", "secret").await.assert_status_error("API Requests are disabled");
    sell(&server, "accountant", "secret").await.assert_status_error("API Requests are disabled");
    sell(&server, "user", "secret").await.assert_status_error("API Requests are disabled");
    sell(&server, "reseller", "reskey").await.assert_page_error("Cardgroup was not found");
    // While the admin's API is off, a reseller can't use the admin's key.
    sell(&server, "reseller", "secret").await.assert_status_error("Incorrect hash");

    server.execute(&disable_api("3")).await;
    sell(&server, "reseller", "secret").await.assert_page_error("Cardgroup was not found");
    sell(&server, "customer", "reskey").await.assert_status_error("API Requests are disabled");

    server.execute(&disable_api("0, 3")).await;
    sell(&server, "reseller", "reskey").await.assert_status_error("API Requests are disabled");
}

#[tokio::test]
async fn reseller_may_use_its_own_or_the_admin_key() {
    let server = server().await;
    sell(&server, "reseller", "reskey").await.assert_page_error("Cardgroup was not found");
    sell(&server, "reseller", "secret").await.assert_page_error("Cardgroup was not found");
    sell(&server, "reseller", "other").await.assert_status_error("Incorrect hash");
    // A reseller's customer can use only the reseller's key; the admin's users can't use it.
    sell(&server, "customer", "reskey").await.assert_status_error("Access Denied");
    sell(&server, "customer", "secret").await.assert_status_error("Incorrect hash");
    sell(&server, "admin", "reskey").await.assert_status_error("Incorrect hash");
}

#[tokio::test]
async fn key_of_a_disabled_reseller_is_valid_except_in_x7() {
    let (server, x7) = (server().await, x7_server().await);
    let disable_api = "update conflines set value = '0' where name = 'Allow_API' and owner_id = 3";
    server.execute(disable_api).await;
    x7.execute(disable_api).await;
    sell(&server, "reseller", "reskey").await.assert_page_error("Cardgroup was not found");
    sell(&x7, "reseller", "reskey").await.assert_status_error("Incorrect hash");
    sell(&x7, "reseller", "secret").await.assert_page_error("Cardgroup was not found");
}

#[tokio::test]
async fn requests_are_refused_without_a_secret_key() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        server.execute("update conflines set value = '' where name = 'API_Secret_Key'").await;
        sell(server, "admin", "").await.assert_status_error("API must have Secret Key");
        server.post(SELL, "u=admin&id=11").await.assert_status_error("API must have Secret Key");
    }
    sell(&server, "reseller", "").await.assert_status_error("API must have Secret Key");
    sell(&x7, "reseller", "").await.assert_status_error("Incorrect hash");
    let messages = ["API : API must have Secret key"; 3];
    x7.assert_rows("select data from actions order by id", &messages).await;
}

#[tokio::test]
async fn hash_check_can_be_disabled() {
    let server = server().await;
    server.execute("insert into conflines (name, value, owner_id) values ('API_Disable_hash_checking', '1', 3)").await;
    server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    server.post(SELL, "u=reseller&id=11").await.assert_page_error("Cardgroup was not found");
    // While the admin's API is on, the admin's setting also applies to resellers.
    server.execute("update conflines set owner_id = 0 where name = 'API_Disable_hash_checking'").await;
    server.post(SELL, "u=admin&id=11&hash=junk").await.assert_page_error("Free cards was not found");
    server.post(SELL, "u=reseller&id=11").await.assert_page_error("Cardgroup was not found");
    server.execute("update conflines set value = '0' where name = 'Allow_API' and owner_id = 0").await;
    server.post(SELL, "u=reseller&id=11").await.assert_status_error("Incorrect hash");
    // Without the check no secret key is needed.
    server
        .execute(
            "update conflines set value = '1' where name = 'Allow_API';
             delete from conflines where name = 'API_Secret_Key'",
        )
        .await;
    server.post(SELL, "u=admin&id=11").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn first_row_counts_for_duplicate_settings() {
    let server = server().await;
    server
        .execute(
            "insert into conflines (name, value, owner_id)
             values ('API_Secret_Key', 'second', 0), ('Allow_API', '0', 0)",
        )
        .await;
    sell(&server, "admin", "secret").await.assert_page_error("Free cards was not found");
    sell(&server, "admin", "second").await.assert_status_error("Incorrect hash");
}

#[tokio::test]
async fn hash_is_40_hex_digits_in_lower_case_for_x7() {
    let (server, x7) = (server().await, x7_server().await);
    let right = hash("11", "secret");
    let upper = right.to_uppercase();
    for (sent, is_valid, is_valid_x7) in [
        (right.as_str(), true, true),
        (upper.as_str(), true, false),
        (&right[..39], false, false),
        (&format!("{right}+"), false, false),
        (&format!("{right}0"), false, false),
        ("", false, false),
        ("%FFabc", false, false),
    ] {
        for (server, admitted) in [(&server, is_valid), (&x7, is_valid_x7)] {
            let reply = server.post(SELL, &format!("u=admin&id=11&hash={sent}")).await;
            match (admitted, sent) {
                (true, _) => reply.assert_page_error("Free cards was not found"),
                (false, "%FFabc") => reply.assert_status_error("Parameters are not valid UTF-8"),
                (false, _) => reply.assert_status_error("Incorrect hash"),
            }
        }
    }
}

#[tokio::test]
async fn head_counts_as_get_except_in_x7() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, refused) in [(&server, true), (&x7, false)] {
        server.execute("update conflines set value = '0' where name = 'Allow_GET_API'").await;
        let uri = format!("/billing/api/{SELL}?u=admin&id=6&hash={}", hash("6", "secret"));
        server.get(&uri).await.assert_status_error("GET Requests are disabled");
        server.send(axum::http::Request::head(&uri).body(axum::body::Body::empty())).await;
        server.assert_rows("select count(*) from payments", if refused { &["0"] } else { &["1"] }).await;
    }
}

#[tokio::test]
async fn x7_limits_groups_to_10_cards_without_the_add_on() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        server.execute("update conflines set value = '0' where name = 'CC_Active'").await;
        server
            .execute(
                "insert into cards (cardgroup_id, number, pin)
                 select 7, i::text, i::text from generate_series(700002, 700010) i",
            )
            .await;
        server
            .post_signed(SELL, "u=admin&id=11&cardgroup_id=7", "117")
            .await
            .assert_page_error("Free cards was not found");
        server.execute("insert into cards (cardgroup_id, number, pin) values (7, '700011', '700011')").await;
    }
    let message = "This is a limited version. You can have only 10 Cards.";
    x7.post_signed(SELL, "u=admin&id=11&cardgroup_id=7", "117").await.assert_status_error(message);
    x7.post_signed(SELL, "u=admin&id=7", "7").await.header("content-type").unwrap();
    server.post_signed(SELL, "u=admin&id=11&cardgroup_id=7", "117").await.assert_page_error("Free cards was not found");
    // Permissions are checked before the limit.
    x7.post_signed(SELL, "u=accountant_none&id=11&cardgroup_id=7", "117").await.assert_status_error("Access Denied");
}

#[tokio::test]
async fn wrong_hash_is_audited_without_secrets() {
    let server = server().await;
    let uri = format!("/billing/api/{SELL}?u=admin&p=secret+password&id=11&s_pin=1234&%68ash=abc&quantity=2");
    server.get(&uri).await.assert_status_error("Incorrect hash");
    server
        .assert_rows(
            "select user_id, action, data, data2, data3, data4, target_type, target_id from actions",
            &["-1|error|API : Incorrect hash\
               |http://shop.test/billing/api/card_from_group_sell?u=admin&p=***&id=11&s_pin=***&%68ash=***&quantity=2\
               |192.0.2.7|u, p, id, s_pin, hash, quantity||∅"],
        )
        .await;
    // A long URL is cut to the width of MOR's column.
    server.get(&format!("{uri}&x={}", "y".repeat(2000))).await.assert_status_error("Incorrect hash");
    server.assert_rows("select max(length(data2)) from actions", &["256"]).await;
}

#[tokio::test]
async fn refusals_are_audited_in_the_background_with_the_cache() {
    let server = server_with_settings(&[("cache", "on")]).await;
    sell(&server, "admin", "wrong").await.assert_status_error("Incorrect hash");
    server.wait_for_rows("select data from actions", |data| data == ["API : Incorrect hash"]).await;
}

fn audit_row() -> AuditRow {
    AuditRow { message: "", url: String::new(), client_addr: String::new(), parameter_names: String::new() }
}

#[tokio::test]
async fn audit_writes_at_most_500_rows_per_second() {
    let server = server().await;
    let (audit, rows) = AuditQueue::new();
    let started = Instant::now();
    for _ in 0..5_000 {
        assert!(audit.enqueue(audit_row));
    }
    tokio::spawn(AuditQueue::run_writer(server.pool.clone(), rows));
    let check_rate = async {
        let mut written = 0;
        // On a slow machine the elapsed time is longer and allows more rows.
        while written < 300 {
            written = server.rows("select count(*) from actions").await[0].parse().unwrap();
            let allowed = 100 + started.elapsed().as_millis() / 2;
            assert!(written <= allowed, "{written} rows, {allowed} allowed");
        }
    };
    with_timeout("300 rows", check_rate).await;
}

#[test]
fn full_audit_queue_drops_rows() {
    let (audit, _rows) = AuditQueue::new();
    for row in 0..10_000 {
        assert!(audit.enqueue(audit_row), "{row}");
    }
    assert!(!audit.enqueue(|| unreachable!("the queue is full")));
}
