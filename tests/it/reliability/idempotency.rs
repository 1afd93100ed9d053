//! Requests that are sent again: carried out once, answered as before (`http.md` knows nothing of it; MOR has no such thing).

use axum::body::Body;
use axum::http::{Request, StatusCode};

use crate::harness::proxy::FaultProxy;
use crate::harness::{
    FIXTURE_SQL, Reply, Server, hash, postgres, server, server_on_database, server_with_connect_options,
    server_with_settings, x7_server,
};

/// A signed POST with the header.
async fn keyed(server: &Server, key: &str, operation: &str, form: &str, hashed: &str) -> Reply {
    let form = format!("{form}&hash={}", hash(hashed, "secret"));
    let request = Request::post(format!("/billing/api/{operation}"))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("idempotency-key", key);
    server.send(request.body(Body::from(form))).await
}

async fn sell(server: &Server, key: &str, group: u32) -> Reply {
    keyed(server, key, "card_from_group_sell", &format!("u=admin&id={group}"), &group.to_string()).await
}

fn is_new(reply: &Reply) -> bool {
    reply.status == StatusCode::OK && reply.header("idempotency-replayed").is_none()
}

#[track_caller]
fn repeats(again: &Reply, first: &Reply) {
    assert_eq!((&again.body, again.status), (&first.body, first.status));
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{}", again.body);
}

/// Everything that operations change.
async fn everything(server: &Server) -> Vec<String> {
    let tables = [
        "cards",
        "card_stock",
        "payments",
        "actions",
        "users",
        "cardgroups",
        "taxes",
        "tariffs",
        "ccorders",
        "cclineitems",
        "vouchers",
    ];
    let digest = |table| {
        format!("select '{table}', md5(coalesce(string_agg(t::text, ',' order by t::text), '')) from {table} t")
    };
    server.rows(&(tables.map(digest).join(" union all ") + " order by 1")).await
}

/// A request for each operation that changes something: form, what is hashed, and a form that asks for something else.
const CHANGES: [(&str, &str, &str, &str); 13] = [
    ("card_from_group_sell", "u=admin&id=6&quantity=2", "62", "u=admin&id=6&quantity=2&curr=EUR"),
    (
        "card_from_group_sell",
        "u=admin&id=6&quantity=2&email=a@example.com",
        "a@example.com62",
        "u=admin&id=6&quantity=2&email=a@example.com&curr=EUR",
    ),
    ("card_from_group_sell", "u=admin&id=6&number=1111111001", "6", "u=admin&id=6&number=1111111001&curr=EUR"),
    ("buy_card_from_callingroup", "u=admin&id=6&quantity=200", "6200", "u=admin&id=6&quantity=200&curr=EUR"),
    (
        "card_by_cli_update",
        "u=admin&callerid=3701111&amount=5",
        "53701111",
        "u=admin&callerid=3701111&amount=5&calleridid=1",
    ),
    (
        "card_by_cli_update",
        "u=admin&callerid=3702222&amount=5&cardgroup_id=6",
        "537022226",
        "u=admin&callerid=3702222&amount=5&cardgroup_id=6&calleridid=1",
    ),
    ("cc_group_create", "u=admin&name=new", "new", "u=admin&name=new&description=other"),
    ("cc_group_update", "u=admin&cc_group_id=6&description=new", "6", "u=admin&cc_group_id=6&description=other"),
    ("tariff_wholesale_update", "u=admin&name=new", "new", "u=admin&name=new&currency="),
    (
        "calling_cards_create",
        "u=admin&card_group_id=11&cards_from=100001&cards_till=100007",
        "11100001100007",
        "u=admin&card_group_id=11&cards_from=100001&cards_till=100007&language=de",
    ),
    ("calling_card_update", "u=admin&card_id=1&name=new", "1", "u=admin&card_id=1&name=other"),
    ("calling_card_update", "u=admin&card_id=1&callerid=3703333", "1", "u=admin&card_id=1&callerid=3704444"),
    (
        "card_payment_add",
        "u=admin&number=1111111000&amount=5&currency=EUR",
        "11111110005EUR",
        "u=admin&number=1111111000&amount=5&currency=EUR&tax_in_amount=",
    ),
];

/// What some of them need besides.
const MORE: &str = "insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1');
    insert into tariffs (name) values ('one'); insert into lcrs (name) values ('one'); insert into locations (name) values ('one')";

#[tokio::test]
async fn what_is_sent_again_is_answered_as_before_and_changes_nothing() {
    for dialect in ["documented", "x7"] {
        for (operation, form, hashed, other) in CHANGES {
            let server = server_with_settings(&[("dialect", dialect)]).await;
            server.execute(MORE).await;
            let before = everything(&server).await;
            let first = keyed(&server, "k", operation, form, hashed).await;
            let after = everything(&server).await;
            assert!(is_new(&first) && before != after, "{dialect} {operation} {form}: {}", first.body);
            repeats(&keyed(&server, "k", operation, form, hashed).await, &first);
            let refused = keyed(&server, "k", operation, other, hashed).await;
            assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{operation} {other}: {}", refused.body);
            refused.assert_status_error("The idempotency key was sent with other parameters before");
            assert_eq!(everything(&server).await, after, "{dialect} {operation} {form}");
        }
    }
}

#[tokio::test]
async fn a_sale_with_a_key_writes_what_one_without_does() {
    const WRITTEN: [&str; 4] = [
        "select amount, currency, user_id, kind from payments order by id",
        "select action, target_type, data, data2 from actions order by id",
        "select ordertype, email, amount from ccorders order by id",
        "select id, sold, active from cards order by id",
    ];
    for email in ["", "&email=a"] {
        let (form, hashed) = (format!("u=admin&id=9&quantity=2{email}"), if email.is_empty() { "92" } else { "a92" });
        let (with, without) = (server().await, server().await);
        let one = keyed(&with, "k", "card_from_group_sell", &form, hashed).await;
        let other = without.post_signed("card_from_group_sell", &form, hashed).await;
        assert_eq!(one.body, other.body);
        for query in WRITTEN {
            assert_eq!(with.rows(query).await, without.rows(query).await, "{query}");
        }
        with.assert_rows(
            "select user_id, operation, key, length(fingerprint) from idempotency_keys",
            &["0|card_from_group_sell|k|32"],
        )
        .await;
        without.assert_rows("select key from idempotency_keys", &[]).await;
    }
}

#[tokio::test]
async fn the_key_is_a_header_or_a_parameter_that_is_not_hashed() {
    let server = server().await;
    let first = server.post_signed("card_from_group_sell", "u=admin&id=6&request_id=k", "6").await;
    assert!(is_new(&first));
    repeats(&server.post_signed("card_from_group_sell", "u=admin&id=6&request_id=k", "6").await, &first);
    repeats(&sell(&server, "k", 6).await, &first);
    // The header goes before the parameter.
    repeats(&keyed(&server, "k", "card_from_group_sell", "u=admin&id=6&request_id=other", "6").await, &first);
    // The order of parameters, a name of earlier days and a password make no other request of it.
    repeats(&keyed(&server, "k", "buy_card_from_callingroup", "id=6&u=admin&p=secret password", "6").await, &first);
    server.assert_rows("select count(*) from payments", &["1"]).await;
}

#[tokio::test]
async fn a_malformed_key_is_refused() {
    const WORDS: &str = "Idempotency key must be 1 to 255 printable characters";
    let server = server().await;
    let before = everything(&server).await;
    for key in ["", &"k".repeat(256), "a%07b", "%7f", "a%0d%0ab", &"%c3%a9".repeat(256)] {
        let reply = server.post_signed("card_from_group_sell", &format!("u=admin&id=6&request_id={key}"), "6").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{key}");
        reply.assert_status_error(WORDS);
    }
    let form = format!("u=admin&id=6&hash={}", hash("6", "secret"));
    for keys in [&[&b""[..]][..], &[b"\xff"], &[b"a\tb"], &[b"a", b"b"]] {
        let request = keys
            .iter()
            .fold(Request::post("/api/card_from_group_sell"), |request, key| request.header("idempotency-key", *key));
        let reply = server.send(request.body(Body::from(form.clone()))).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{keys:?}");
        reply.assert_status_error(WORDS);
    }
    assert_eq!(everything(&server).await, before);
    for key in ["k".repeat(255), "%c3%a9".repeat(255), "a b".to_owned()] {
        let reply = server.post_signed("card_from_group_sell", &format!("u=admin&id=9&request_id={key}"), "9").await;
        assert_ne!(reply.status, StatusCode::BAD_REQUEST, "{key}");
    }
}

#[tokio::test]
async fn keys_are_each_users_and_each_operations_own() {
    let server = server().await;
    assert!(is_new(&sell(&server, "k", 6).await));
    assert!(is_new(&keyed(&server, "k", "card_from_group_sell", "u=accountant&id=6", "6").await));
    assert!(is_new(&keyed(&server, "k", "cc_group_update", "u=admin&cc_group_id=6&description=new", "6").await));
    assert!(is_new(&sell(&server, "other", 6).await));
    server.assert_rows("select count(*) from payments", &["3"]).await;
}

#[tokio::test]
async fn who_is_not_admitted_is_told_nothing() {
    let server = server().await;
    assert!(is_new(&sell(&server, "k", 6).await));
    let reply = keyed(&server, "k", "card_from_group_sell", "u=admin&id=6", "7").await;
    reply.assert_status_error("Incorrect hash");
    server.execute("update conflines set value = '0' where name = 'Allow_API' and owner_id = 0").await;
    sell(&server, "k", 6).await.assert_status_error("API Requests are disabled");
}

#[tokio::test]
async fn a_refusal_is_kept_too() {
    for server in [server().await, x7_server().await] {
        let first = sell(&server, "k", 11).await;
        first.assert_page_error("Free cards was not found");
        assert!(is_new(&first));
        server.execute("insert into cards (cardgroup_id, number, pin) values (11, '500000', '5000')").await;
        repeats(&sell(&server, "k", 11).await, &first);
        assert_eq!(sell(&server, "other", 11).await.element_texts("number"), ["500000"]);
        // As it is where the database itself refused.
        server.execute(MORE).await;
        let taken = keyed(&server, "k", "cc_group_create", "u=admin&name=empty", "empty").await;
        taken.assert_page_error("Card Group name must be unique");
        server.execute("update cardgroups set name = 'another' where name = 'empty'").await;
        repeats(&keyed(&server, "k", "cc_group_create", "u=admin&name=empty", "empty").await, &taken);
    }
}

#[tokio::test]
async fn a_card_that_an_x7_server_would_not_sell_is_kept_as_such() {
    let server = x7_server().await;
    server.execute("update cards set pin = '1' where id = 2").await;
    let form = "u=admin&id=6&quantity=2";
    let first = keyed(&server, "k", "card_from_group_sell", form, "62").await;
    assert_eq!(first.element_texts("error"), ["Card error"], "{}", first.body);
    repeats(&keyed(&server, "k", "card_from_group_sell", form, "62").await, &first);
}

#[tokio::test]
async fn an_accident_of_the_moment_is_not_kept() {
    let server = server_with_settings(&[("database_acquire_timeout_ms", "2000")]).await;
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *lock).await.unwrap();
    let update = async || keyed(&server, "k", "calling_card_update", "u=admin&card_id=1&name=new", "1").await;
    let reply = update().await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    server.assert_rows("select key from idempotency_keys", &[]).await;
    lock.rollback().await.unwrap();
    assert!(is_new(&update().await));
    server.assert_rows("select name from cards where id = 1", &["new"]).await;
}

#[tokio::test]
async fn while_the_first_is_running_the_second_is_told_to_come_back() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let short = &[("idempotency_wait_ms", "1")];
    let one = server_on_database(&database, short).await;
    // The other server waits for the database's word on the key, as long as for any lock.
    let other = server_on_database(&database, &[("database_acquire_timeout_ms", "2000")]).await;
    let mut lock = one.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *lock).await.unwrap();
    const CHANGE: (&str, &str, &str) = ("calling_card_update", "u=admin&card_id=1&name=new", "1");
    let first = tokio::spawn({
        let one = one.clone();
        async move { keyed(&one, "k", CHANGE.0, CHANGE.1, CHANGE.2).await }
    });
    one.wait_for_lock_waiter().await;
    for server in [&one, &other] {
        let second = keyed(server, "k", CHANGE.0, CHANGE.1, CHANGE.2).await;
        assert_eq!((second.status, second.header("retry-after")), (StatusCode::CONFLICT, Some("1")), "{}", second.body);
        second.assert_status_error("A request with this idempotency key is being carried out");
    }
    // Others have nothing to do with it.
    assert!(is_new(&sell(&one, "k", 9).await));
    lock.rollback().await.unwrap();
    let first = first.await.unwrap();
    assert!(is_new(&first));
    for server in [&one, &other] {
        repeats(&keyed(server, "k", CHANGE.0, CHANGE.1, CHANGE.2).await, &first);
    }
}

#[tokio::test]
async fn a_second_that_comes_a_moment_later_waits_for_the_first() {
    let server = server_with_settings(&[("idempotency_wait_ms", "3600000")]).await;
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *lock).await.unwrap();
    let update = || {
        let server = server.clone();
        tokio::spawn(async move { keyed(&server, "k", "calling_card_update", "u=admin&card_id=1&name=new", "1").await })
    };
    let first = update();
    server.wait_for_lock_waiter().await;
    let second = update();
    tokio::task::yield_now().await;
    lock.rollback().await.unwrap();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let (new, again) = if is_new(&first) { (first, second) } else { (second, first) };
    repeats(&again, &new);
}

#[tokio::test]
async fn of_many_at_the_same_time_on_two_servers_one_is_carried_out() {
    let mut payments = Vec::new();
    for (operation, form, hashed, _) in CHANGES {
        let database = postgres::create_database(&format!("{FIXTURE_SQL}{MORE}")).await;
        let settings = &[("idempotency_wait_ms", "3600000"), ("cache", "on")];
        let servers = [server_on_database(&database, settings).await, server_on_database(&database, settings).await];
        let send = |server: Server| async move {
            loop {
                let reply = keyed(&server, "k", operation, form, hashed).await;
                if ![StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE].contains(&reply.status) {
                    return reply;
                }
            }
        };
        let tasks: Vec<_> = (0..16).map(|number| tokio::spawn(send(servers[number % 2].clone()))).collect();
        let mut replies = Vec::new();
        for task in tasks {
            replies.push(task.await.unwrap());
        }
        let new: Vec<_> = replies.iter().filter(|reply| is_new(reply)).collect();
        assert_eq!(new.len(), 1, "{operation} {form}: {}", replies[0].body);
        replies.iter().filter(|reply| !is_new(reply)).for_each(|reply| repeats(reply, new[0]));
        payments.extend(servers[0].rows("select kind from payments").await);
    }
    payments.sort_unstable();
    assert_eq!(payments, [vec!["sale"; 10], vec!["top_up"; 3]].concat());
}

/// The outcome of a request whose connection to the database breaks at the very commit is known to nobody but the database.
#[tokio::test]
async fn a_connection_lost_at_the_commit_is_asked_for_again() {
    for (cut, form, hashed, cards) in [
        // In one statement, and step by step.
        ("SELECT 2", "u=admin&id=6&quantity=2", "62", 2),
        ("COMMIT", "u=admin&id=6&number=1111111003", "6", 1),
    ] {
        let scissors = FaultProxy::new().await;
        let database = postgres::create_database(FIXTURE_SQL).await;
        let server = server_with_connect_options(scissors.connect_options(&database), &[("cache", "on")]).await;
        // Users and settings are in memory then.
        server.post_signed("card_from_group_sell", "u=admin&id=11", "11").await;
        scissors.cut_after_command(cut);
        let lost = keyed(&server, "k", "card_from_group_sell", form, hashed).await;
        assert_eq!(
            (lost.status, lost.header("retry-after")),
            (StatusCode::SERVICE_UNAVAILABLE, Some("1")),
            "{}",
            lost.body
        );
        lost.assert_status_error(
            "The database was lost during the request: send it again with the same idempotency key",
        );
        let found = keyed(&server, "k", "card_from_group_sell", form, hashed).await;
        assert_eq!(found.element_texts("pin").len(), cards, "{}", found.body);
        assert_eq!(found.header("idempotency-replayed"), Some("true"));
        server.assert_rows("select count(*) from payments", &[&cards.to_string()]).await;

        // Without a key nobody can say, and nothing invites to try.
        scissors.cut_after_command(cut);
        let lost = server.post_signed("card_from_group_sell", form.replace("003", "002").as_str(), hashed).await;
        assert_eq!((lost.status, lost.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, None), "{}", lost.body);
        lost.assert_status_error("The database was lost during the request, which may have been carried out");
    }
}

#[tokio::test]
async fn a_request_whose_database_session_is_killed_is_carried_out_when_it_comes_again() {
    let server = server().await;
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *lock).await.unwrap();
    let update = || {
        let server = server.clone();
        tokio::spawn(async move { keyed(&server, "k", "calling_card_update", "u=admin&card_id=1&name=new", "1").await })
    };
    let first = update();
    server.wait_for_lock_waiter().await;
    server.terminate_lock_waiters().await;
    assert_eq!(first.await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    lock.rollback().await.unwrap();
    assert!(is_new(&update().await.unwrap()));
    server.assert_rows("select name from cards where id = 1", &["new"]).await;
}

#[tokio::test]
async fn keys_are_forgotten_after_their_time() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[("idempotency_hours", "2")]).await;
    let age = async |hours: u32| {
        server
            .execute(&format!("update idempotency_keys set created_at = created_at - interval '{hours} hours'"))
            .await;
    };
    let first = sell(&server, "k", 6).await;
    let group = keyed(&server, "k", "cc_group_update", "u=admin&cc_group_id=6&name=a", "6").await;
    age(1).await;
    repeats(&sell(&server, "k", 6).await, &first);
    repeats(&keyed(&server, "k", "cc_group_update", "u=admin&cc_group_id=6&name=a", "6").await, &group);
    age(1).await;
    // Even while it is still there.
    let second = sell(&server, "k", 6).await;
    assert!(is_new(&second) && second.body != first.body);
    repeats(&sell(&server, "k", 6).await, &second);
    assert!(is_new(&keyed(&server, "k", "cc_group_update", "u=admin&cc_group_id=6&name=b", "6").await));
    // Whoever starts sweeps what is old.
    age(3).await;
    let _other = server_on_database(&database, &[("idempotency_hours", "2")]).await;
    while !server.rows("select key from idempotency_keys").await.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn no_password_leaves_a_trace_in_the_fingerprint() {
    let server = server().await;
    let prints = async |form: &str| {
        server.execute("delete from idempotency_keys").await;
        keyed(&server, "k", "card_from_group_sell", form, "6").await;
        server.rows("select encode(fingerprint, 'hex') from idempotency_keys").await
    };
    assert_eq!(prints("u=admin&id=6").await, prints("u=admin&id=6&p=secret password").await);
    assert_ne!(prints("u=admin&id=6").await, prints("u=admin&id=6&test=1").await);
}

/// MOR's version without the add-on stops at ten cards; the request that made the eleventh may come again all the same.
#[tokio::test]
async fn what_used_up_a_limit_may_be_sent_again() {
    let server = x7_server().await;
    server
        .execute(
            "update conflines set value = '0' where name = 'CC_Active';
             insert into cards (cardgroup_id, number, pin) select 11, (500000 + i)::text, (5000 + i)::text from generate_series(1, 10) i",
        )
        .await;
    let create = ("card_by_cli_update", "u=admin&callerid=3702222&amount=5&cardgroup_id=11", "5370222211");
    let first = keyed(&server, "k", create.0, create.1, create.2).await;
    assert_eq!(first.element_texts("status"), ["ok"], "{}", first.body);
    repeats(&keyed(&server, "k", create.0, create.1, create.2).await, &first);
    let other = keyed(&server, "other", create.0, create.1, create.2).await;
    other.assert_status_error("This is a limited version. You can have only 10 Cards.");
}
