//! Who is let in, and the order in which it is looked at (`http.md`, "Admission"), seen through card_from_group_sell.

use std::time::Instant;

use mortise::audit::{AuditQueue, AuditRow};

use crate::harness::{Reply, Server, hash, server, server_with_settings, with_timeout, x7_server};

const SELL: &str = "card_from_group_sell";

/// A purchase from an empty group: whoever is admitted hears that it has no cards.
async fn ask(server: &Server, user: &str, key: &str) -> Reply {
    server.post(SELL, &format!("u={user}&id=11&hash={}", hash("11", key))).await
}

#[tokio::test]
async fn refusals_come_in_the_order_of_the_contract() {
    let server = server().await;
    // Everything is wrong at first; each row mends what the row above was refused for.
    server
        .execute(
            "update conflines set value = '0' where name in ('Allow_API', 'Allow_GET_API');
             update conflines set value = '' where name = 'API_Secret_Key';
             update acc_group_rights set value = 0 where acc_group_id = 1",
        )
        .await;
    let get = |user: &str| format!("/billing/api/{SELL}?u={user}&id=999&hash=wrong");
    server.get(&get("nobody")).await.assert_status_error("Bad login");
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
async fn the_user_must_be_known() {
    let server = server().await;
    server.post(SELL, "id=11").await.assert_status_error("Bad login");
    server.post(SELL, "u=&id=11").await.assert_status_error("Bad login");
    ask(&server, "nobody", "secret").await.assert_status_error("Bad login");
    ask(&server, "+admin", "secret").await.assert_status_error("Bad login");
    for name in ["admin", "ADMIN", "Admin++"] {
        ask(&server, name, "secret").await.assert_page_error("Free cards was not found");
    }
}

#[tokio::test]
async fn of_two_users_with_one_name_the_first_counts() {
    let server = server().await;
    server.execute("update users set username = 'Accountant' where id = 10").await;
    ask(&server, "accountant", "secret").await.assert_page_error("Free cards was not found");
    server
        .execute(
            "update users set username = 'PARTNER' where id = 6; update users set username = 'partner' where id = 10",
        )
        .await;
    ask(&server, "partner", "secret").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn a_blocked_or_hidden_user_is_unknown_but_not_to_an_x7_server() {
    let (server, x7) = (server().await, x7_server().await);
    for column in ["blocked", "hidden"] {
        let sql = format!("update users set blocked = 0, hidden = 0; update users set {column} = 1 where id = 6");
        server.execute(&sql).await;
        x7.execute(&sql).await;
        ask(&server, "accountant", "secret").await.assert_status_error("Bad login");
        ask(&x7, "accountant", "secret").await.assert_page_error("Free cards was not found");
    }
}

#[tokio::test]
async fn calling_cards_are_for_those_with_the_right() {
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
        let reply = ask(&server, user, "secret").await;
        match (admitted, user) {
            (true, "reseller") => reply.assert_page_error("Cardgroup was not found"),
            (true, _) => reply.assert_page_error("Free cards was not found"),
            (false, _) => reply.assert_status_error("Access Denied"),
        }
    }
}

#[tokio::test]
async fn right_names_match_in_any_letter_case() {
    let server = server().await;
    server.execute("update acc_rights set name = 'CALLINGCARD_MANAGE' where id = 1").await;
    ask(&server, "accountant", "secret").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn a_password_is_checked_where_it_is_sent() {
    let server = server().await;
    let ask = async |p: &str| server.post_signed(SELL, &format!("u=admin&id=11{p}"), "11").await;
    ask("").await.assert_page_error("Free cards was not found");
    ask("&p=wrong").await.assert_status_error("Bad login");
    ask("&p=").await.assert_status_error("Bad login");
    server.assert_rows("select password_argon2 from users where id = 0", &["∅"]).await;
    ask("&p=secret+password").await.assert_page_error("Free cards was not found");
    // The first success leaves a better hash behind, which counts from then on.
    server.assert_rows("select password_argon2 like '$argon2id$%' as better from users where id = 0", &["true"]).await;
    server.execute("update users set password = '' where id = 0").await;
    ask("&p=secret+password").await.assert_page_error("Free cards was not found");
    ask("&p=wrong").await.assert_status_error("Bad login");
    server.assert_rows("select password_argon2 is null as gone from users where id = 0", &["false"]).await;
}

#[tokio::test]
async fn a_new_password_in_mors_column_unseats_the_old_one() {
    let server = server().await;
    let ask = async |p: &str| server.post_signed(SELL, &format!("u=admin&id=11&p={p}"), "11").await;
    ask("secret+password").await.assert_page_error("Free cards was not found");
    server.execute(&format!("update users set password = '{}' where id = 0", hash("another", ""))).await;
    server.assert_rows("select password_argon2 from users where id = 0", &["∅"]).await;
    ask("secret+password").await.assert_status_error("Bad login");
    ask("another").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn a_changed_argon2_hash_ends_the_old_password() {
    let server = server().await;
    let ask = async || server.post_signed(SELL, "u=admin&id=11&p=secret+password", "11").await;
    ask().await.assert_page_error("Free cards was not found");
    server.execute("update users set password = ''").await;
    ask().await.assert_page_error("Free cards was not found");
    server.execute("update users set password_argon2 = null").await;
    ask().await.assert_status_error("Bad login");
}

#[tokio::test]
async fn a_password_can_be_required_in_both_dialects_and_is_else_ignored_by_an_x7_server() {
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
async fn the_api_is_switched_on_by_the_owner_or_for_a_reseller_by_the_admin() {
    let server = server().await;
    let off = |owners: &str| {
        format!(
            "update conflines set value = '1' where name = 'Allow_API';
             update conflines set value = '0' where name = 'Allow_API' and owner_id in ({owners})"
        )
    };
    server.execute(&off("0")).await;
    ask(&server, "admin", "secret").await.assert_status_error("API Requests are disabled");
    ask(&server, "accountant", "secret").await.assert_status_error("API Requests are disabled");
    ask(&server, "user", "secret").await.assert_status_error("API Requests are disabled");
    ask(&server, "reseller", "reskey").await.assert_page_error("Cardgroup was not found");
    // With the admin's API off the admin's key is no key for a reseller.
    ask(&server, "reseller", "secret").await.assert_status_error("Incorrect hash");

    server.execute(&off("3")).await;
    ask(&server, "reseller", "secret").await.assert_page_error("Cardgroup was not found");
    ask(&server, "customer", "reskey").await.assert_status_error("API Requests are disabled");

    server.execute(&off("0, 3")).await;
    ask(&server, "reseller", "reskey").await.assert_status_error("API Requests are disabled");
}

#[tokio::test]
async fn a_reseller_signs_with_either_key() {
    let server = server().await;
    ask(&server, "reseller", "reskey").await.assert_page_error("Cardgroup was not found");
    ask(&server, "reseller", "secret").await.assert_page_error("Cardgroup was not found");
    ask(&server, "reseller", "other").await.assert_status_error("Incorrect hash");
    // A reseller's customer has the reseller's key only, and the admin's people not the reseller's.
    ask(&server, "customer", "reskey").await.assert_status_error("Access Denied");
    ask(&server, "customer", "secret").await.assert_status_error("Incorrect hash");
    ask(&server, "admin", "reskey").await.assert_status_error("Incorrect hash");
}

#[tokio::test]
async fn a_switched_off_resellers_own_key_counts_but_not_to_an_x7_server() {
    let (server, x7) = (server().await, x7_server().await);
    let off = "update conflines set value = '0' where name = 'Allow_API' and owner_id = 3";
    server.execute(off).await;
    x7.execute(off).await;
    ask(&server, "reseller", "reskey").await.assert_page_error("Cardgroup was not found");
    ask(&x7, "reseller", "reskey").await.assert_status_error("Incorrect hash");
    ask(&x7, "reseller", "secret").await.assert_page_error("Cardgroup was not found");
}

#[tokio::test]
async fn without_any_key_nobody_is_admitted() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        server.execute("update conflines set value = '' where name = 'API_Secret_Key'").await;
        ask(server, "admin", "").await.assert_status_error("API must have Secret Key");
        server.post(SELL, "u=admin&id=11").await.assert_status_error("API must have Secret Key");
    }
    ask(&server, "reseller", "").await.assert_status_error("API must have Secret Key");
    ask(&x7, "reseller", "").await.assert_status_error("Incorrect hash");
    let row = ["API : API must have Secret key"; 3];
    x7.assert_rows("select data from actions order by id", &row).await;
}

#[tokio::test]
async fn hash_checking_can_be_switched_off() {
    let server = server().await;
    server.execute("insert into conflines (name, value, owner_id) values ('API_Disable_hash_checking', '1', 3)").await;
    server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    server.post(SELL, "u=reseller&id=11").await.assert_page_error("Cardgroup was not found");
    // The admin's switch is the reseller's too, while the admin's API is on.
    server.execute("update conflines set owner_id = 0 where name = 'API_Disable_hash_checking'").await;
    server.post(SELL, "u=admin&id=11&hash=junk").await.assert_page_error("Free cards was not found");
    server.post(SELL, "u=reseller&id=11").await.assert_page_error("Cardgroup was not found");
    server.execute("update conflines set value = '0' where name = 'Allow_API' and owner_id = 0").await;
    server.post(SELL, "u=reseller&id=11").await.assert_status_error("Incorrect hash");
    // No key is needed then either.
    server.execute("update conflines set value = '1' where name = 'Allow_API'; delete from conflines where name = 'API_Secret_Key'").await;
    server.post(SELL, "u=admin&id=11").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn of_a_setting_that_stands_twice_the_first_counts() {
    let server = server().await;
    server.execute("insert into conflines (name, value, owner_id) values ('API_Secret_Key', 'second', 0), ('Allow_API', '0', 0)").await;
    ask(&server, "admin", "secret").await.assert_page_error("Free cards was not found");
    ask(&server, "admin", "second").await.assert_status_error("Incorrect hash");
}

#[tokio::test]
async fn a_hash_is_forty_hex_digits_and_x7_wants_small_ones() {
    let (server, x7) = (server().await, x7_server().await);
    let right = hash("11", "secret");
    let upper = right.to_uppercase();
    for (sent, documented, field) in [
        (right.as_str(), true, true),
        (upper.as_str(), true, false),
        (&right[..39], false, false),
        (&format!("{right}+"), false, false),
        (&format!("{right}0"), false, false),
        ("", false, false),
        ("%FFabc", false, false),
    ] {
        for (server, admitted) in [(&server, documented), (&x7, field)] {
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
async fn head_is_a_get_but_not_to_an_x7_server() {
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
async fn without_the_add_on_an_x7_server_shuts_large_groups() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        server.execute("update conflines set value = '0' where name = 'CC_Active'").await;
        server
            .execute("insert into cards (cardgroup_id, number, pin) select 7, i::text, i::text from generate_series(700002, 700010) i")
            .await;
        server
            .post_signed(SELL, "u=admin&id=11&cardgroup_id=7", "117")
            .await
            .assert_page_error("Free cards was not found");
        server.execute("insert into cards (cardgroup_id, number, pin) values (7, '700011', '700011')").await;
    }
    let limited = "This is a limited version. You can have only 10 Cards.";
    x7.post_signed(SELL, "u=admin&id=11&cardgroup_id=7", "117").await.assert_status_error(limited);
    x7.post_signed(SELL, "u=admin&id=7", "7").await.header("content-type").unwrap();
    server.post_signed(SELL, "u=admin&id=11&cardgroup_id=7", "117").await.assert_page_error("Free cards was not found");
    // Rights go before it.
    x7.post_signed(SELL, "u=accountant_none&id=11&cardgroup_id=7", "117").await.assert_status_error("Access Denied");
}

#[tokio::test]
async fn a_wrong_hash_is_written_down_without_its_secrets() {
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
    // However long the request, the row keeps to MOR's columns.
    server.get(&format!("{uri}&x={}", "y".repeat(2000))).await.assert_status_error("Incorrect hash");
    server.assert_rows("select max(length(data2)) from actions", &["256"]).await;
}

#[tokio::test]
async fn with_the_cache_on_refusals_are_written_in_the_background() {
    let server = server_with_settings(&[("cache", "on")]).await;
    ask(&server, "admin", "wrong").await.assert_status_error("Incorrect hash");
    while server.rows("select data from actions").await != ["API : Incorrect hash"] {
        tokio::task::yield_now().await;
    }
}

fn refusal() -> AuditRow {
    AuditRow { message: "", url: String::new(), client_addr: String::new(), parameter_names: String::new() }
}

#[tokio::test]
async fn of_a_flood_of_refusals_no_more_than_five_hundred_a_second_are_written() {
    let server = server().await;
    let (audit, rows) = AuditQueue::new();
    let since = Instant::now();
    for _ in 0..5_000 {
        assert!(audit.enqueue(refusal));
    }
    tokio::spawn(AuditQueue::run_writer(server.pool.clone(), rows));
    let watched = async {
        let mut written = 0;
        // However slow the machine is, more time only allows more.
        while written < 300 {
            written = server.rows("select count(*) from actions").await[0].parse().unwrap();
            let allowed = 100 + since.elapsed().as_millis() / 2;
            assert!(written <= allowed, "{written} rows, {allowed} allowed");
        }
    };
    with_timeout("three hundred rows", watched).await;
}

#[test]
fn beyond_what_can_be_written_down_a_refusal_only_counts() {
    let (audit, _rows) = AuditQueue::new();
    for row in 0..10_000 {
        assert!(audit.enqueue(refusal), "{row}");
    }
    assert!(!audit.enqueue(|| unreachable!("made for nothing")));
}
