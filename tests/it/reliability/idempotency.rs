//! Idempotency keys: a repeated request is executed once and gets the stored reply. MOR and its documentation
//! (`http.md`) have no such feature. Concurrent requests and lost connections are tested in
//! `idempotency_concurrency.rs`.

use axum::body::Body;
use axum::http::{Request, StatusCode};

use crate::harness::{
    FIXTURE_SQL, Reply, Server, hash, postgres, server, server_on_database, server_with_settings, x7_server,
};

/// Sends a signed POST with the header `Idempotency-Key`.
pub(super) async fn post_with_key(server: &Server, key: &str, operation: &str, form: &str, hashed: &str) -> Reply {
    let form = format!("{form}&hash={}", hash(hashed, "secret"));
    let request = Request::post(format!("/billing/api/{operation}"))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("idempotency-key", key);
    server.send(request.body(Body::from(form))).await
}

pub(super) async fn sell(server: &Server, key: &str, group: u32) -> Reply {
    post_with_key(server, key, "card_from_group_sell", &format!("u=admin&id={group}"), &group.to_string()).await
}

/// Whether the request was executed: the reply is not a replay, and no HTTP error.
pub(super) fn was_executed(reply: &Reply) -> bool {
    reply.status == StatusCode::OK && reply.header("idempotency-replayed").is_none()
}

#[track_caller]
pub(super) fn assert_replayed(reply: &Reply, first: &Reply) {
    assert_eq!((&reply.body, reply.status), (&first.body, first.status));
    assert_eq!(reply.header("idempotency-replayed"), Some("true"), "{}", reply.body);
}

/// A digest of each table that the operations change.
async fn table_digests(server: &Server) -> Vec<String> {
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

/// Requests for all operations that change data: operation, form, signed values, and a form with other parameters but
/// the same signed values.
pub(super) const CHANGES: [(&str, &str, &str, &str); 14] = [
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
        "tariff_retail_import",
        "u=admin&xml=<tariff><id>0</id><name>new</name><destinations><destination/></destinations></tariff>",
        "",
        "u=admin&xml=<tariff><id>0</id><name>old</name><destinations><destination/></destinations></tariff>",
    ),
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

/// Settings and rows that some of [`CHANGES`] need.
pub(super) const EXTRA_FIXTURE_SQL: &str =
    "insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1');
    insert into tariffs (name) values ('one'); insert into lcrs (name) values ('one');
    insert into locations (name) values ('one')";

#[tokio::test]
async fn repeated_request_is_replayed_and_changes_nothing() {
    for dialect in ["documented", "x7"] {
        for (operation, form, hashed, other_form) in CHANGES {
            let server = server_with_settings(&[("dialect", dialect)]).await;
            server.execute(EXTRA_FIXTURE_SQL).await;
            let before = table_digests(&server).await;
            let first = post_with_key(&server, "k", operation, form, hashed).await;
            let after = table_digests(&server).await;
            assert!(was_executed(&first) && before != after, "{dialect} {operation} {form}: {}", first.body);
            assert_replayed(&post_with_key(&server, "k", operation, form, hashed).await, &first);
            let refused = post_with_key(&server, "k", operation, other_form, hashed).await;
            assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{operation} {other_form}: {}", refused.body);
            refused.assert_status_error("The idempotency key was sent with other parameters before");
            assert_eq!(table_digests(&server).await, after, "{dialect} {operation} {form}");
        }
    }
}

#[tokio::test]
async fn sale_with_key_writes_the_same_rows_as_without() {
    const QUERIES: [&str; 4] = [
        "select amount, currency, user_id, kind from payments order by id",
        "select action, target_type, data, data2 from actions order by id",
        "select ordertype, email, amount from ccorders order by id",
        "select id, sold, active from cards order by id",
    ];
    for email in ["", "&email=a"] {
        let (form, hashed) = (format!("u=admin&id=9&quantity=2{email}"), if email.is_empty() { "92" } else { "a92" });
        let (with_key, without_key) = (server().await, server().await);
        let keyed_reply = post_with_key(&with_key, "k", "card_from_group_sell", &form, hashed).await;
        let plain_reply = without_key.post_signed("card_from_group_sell", &form, hashed).await;
        assert_eq!(keyed_reply.body, plain_reply.body);
        for query in QUERIES {
            assert_eq!(with_key.rows(query).await, without_key.rows(query).await, "{query}");
        }
        with_key
            .assert_rows(
                "select user_id, operation, key, length(fingerprint) from idempotency_keys",
                &["0|card_from_group_sell|k|32"],
            )
            .await;
        without_key.assert_rows("select key from idempotency_keys", &[]).await;
    }
}

#[tokio::test]
async fn key_is_a_header_or_an_unsigned_parameter() {
    let server = server().await;
    let first = server.post_signed("card_from_group_sell", "u=admin&id=6&request_id=k", "6").await;
    assert!(was_executed(&first));
    assert_replayed(&server.post_signed("card_from_group_sell", "u=admin&id=6&request_id=k", "6").await, &first);
    assert_replayed(&sell(&server, "k", 6).await, &first);
    // The header takes precedence over the parameter.
    let both = post_with_key(&server, "k", "card_from_group_sell", "u=admin&id=6&request_id=other", "6").await;
    assert_replayed(&both, &first);
    // Another order of the parameters, an alias of the operation and a password do not make it a different request.
    let variant = "id=6&u=admin&p=secret password";
    assert_replayed(&post_with_key(&server, "k", "buy_card_from_callingroup", variant, "6").await, &first);
    server.assert_rows("select count(*) from payments", &["1"]).await;
}

#[tokio::test]
async fn malformed_key_is_refused() {
    const MESSAGE: &str = "Idempotency key must be 1 to 255 printable characters";
    let server = server().await;
    let before = table_digests(&server).await;
    for key in ["", &"k".repeat(256), "a%07b", "%7f", "a%0d%0ab", &"%c3%a9".repeat(256)] {
        let reply = server.post_signed("card_from_group_sell", &format!("u=admin&id=6&request_id={key}"), "6").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{key}");
        reply.assert_status_error(MESSAGE);
    }
    let form = format!("u=admin&id=6&hash={}", hash("6", "secret"));
    for keys in [&[&b""[..]][..], &[b"\xff"], &[b"a\tb"], &[b"a", b"b"]] {
        let request = keys
            .iter()
            .fold(Request::post("/api/card_from_group_sell"), |request, key| request.header("idempotency-key", *key));
        let reply = server.send(request.body(Body::from(form.clone()))).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{keys:?}");
        reply.assert_status_error(MESSAGE);
    }
    assert_eq!(table_digests(&server).await, before);
    for key in ["k".repeat(255), "%c3%a9".repeat(255), "a b".to_owned()] {
        let reply = server.post_signed("card_from_group_sell", &format!("u=admin&id=9&request_id={key}"), "9").await;
        assert_ne!(reply.status, StatusCode::BAD_REQUEST, "{key}");
    }
}

#[tokio::test]
async fn keys_are_separate_for_each_user_and_operation() {
    let server = server().await;
    assert!(was_executed(&sell(&server, "k", 6).await));
    assert!(was_executed(&post_with_key(&server, "k", "card_from_group_sell", "u=accountant&id=6", "6").await));
    let update = post_with_key(&server, "k", "cc_group_update", "u=admin&cc_group_id=6&description=new", "6").await;
    assert!(was_executed(&update));
    assert!(was_executed(&sell(&server, "other", 6).await));
    server.assert_rows("select count(*) from payments", &["3"]).await;
}

#[tokio::test]
async fn unauthorized_request_gets_no_replay() {
    let server = server().await;
    assert!(was_executed(&sell(&server, "k", 6).await));
    let reply = post_with_key(&server, "k", "card_from_group_sell", "u=admin&id=6", "7").await;
    reply.assert_status_error("Incorrect hash");
    server.execute("update conflines set value = '0' where name = 'Allow_API' and owner_id = 0").await;
    sell(&server, "k", 6).await.assert_status_error("API Requests are disabled");
}

#[tokio::test]
async fn error_reply_is_stored() {
    for server in [server().await, x7_server().await] {
        let first = sell(&server, "k", 11).await;
        first.assert_page_error("Free cards was not found");
        assert!(was_executed(&first));
        server.execute("insert into cards (cardgroup_id, number, pin) values (11, '500000', '5000')").await;
        assert_replayed(&sell(&server, "k", 11).await, &first);
        assert_eq!(sell(&server, "other", 11).await.element_texts("number"), ["500000"]);
        // An error from a constraint of the database is stored too.
        server.execute(EXTRA_FIXTURE_SQL).await;
        let duplicate = post_with_key(&server, "k", "cc_group_create", "u=admin&name=empty", "empty").await;
        duplicate.assert_page_error("Card Group name must be unique");
        server.execute("update cardgroups set name = 'another' where name = 'empty'").await;
        let replay = post_with_key(&server, "k", "cc_group_create", "u=admin&name=empty", "empty").await;
        assert_replayed(&replay, &duplicate);
    }
}

#[tokio::test]
async fn card_error_of_x7_is_stored() {
    let server = x7_server().await;
    server.execute("update cards set pin = '1' where id = 2").await;
    let form = "u=admin&id=6&quantity=2";
    let first = post_with_key(&server, "k", "card_from_group_sell", form, "62").await;
    assert_eq!(first.element_texts("error"), ["Card error"], "{}", first.body);
    assert_replayed(&post_with_key(&server, "k", "card_from_group_sell", form, "62").await, &first);
}

#[tokio::test]
async fn transient_error_is_not_stored() {
    let server = server_with_settings(&[("database_acquire_timeout_ms", "2000")]).await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *transaction).await.unwrap();
    let update = async || post_with_key(&server, "k", "calling_card_update", "u=admin&card_id=1&name=new", "1").await;
    let reply = update().await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    server.assert_rows("select key from idempotency_keys", &[]).await;
    transaction.rollback().await.unwrap();
    assert!(was_executed(&update().await));
    server.assert_rows("select name from cards where id = 1", &["new"]).await;
}

#[tokio::test]
async fn keys_expire_after_idempotency_hours() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[("idempotency_hours", "2")]).await;
    let age_keys = async |hours: u32| {
        server
            .execute(&format!("update idempotency_keys set created_at = created_at - interval '{hours} hours'"))
            .await;
    };
    let update_group = async |name: &str| {
        let form = format!("u=admin&cc_group_id=6&name={name}");
        post_with_key(&server, "k", "cc_group_update", &form, "6").await
    };
    let first_sale = sell(&server, "k", 6).await;
    let first_update = update_group("a").await;
    age_keys(1).await;
    assert_replayed(&sell(&server, "k", 6).await, &first_sale);
    assert_replayed(&update_group("a").await, &first_update);
    age_keys(1).await;
    // An expired key is free again, even before its row is deleted.
    let second_sale = sell(&server, "k", 6).await;
    assert!(was_executed(&second_sale) && second_sale.body != first_sale.body);
    assert_replayed(&sell(&server, "k", 6).await, &second_sale);
    assert!(was_executed(&update_group("b").await));
    // A server deletes the expired keys when it starts.
    age_keys(3).await;
    let _second_server = server_on_database(&database, &[("idempotency_hours", "2")]).await;
    server.wait_for_rows("select key from idempotency_keys", |keys| keys.is_empty()).await;
}

#[tokio::test]
async fn fingerprint_does_not_depend_on_the_password() {
    let server = server().await;
    let fingerprint = async |form: &str| {
        server.execute("delete from idempotency_keys").await;
        post_with_key(&server, "k", "card_from_group_sell", form, "6").await;
        server.rows("select encode(fingerprint, 'hex') from idempotency_keys").await
    };
    assert_eq!(fingerprint("u=admin&id=6").await, fingerprint("u=admin&id=6&p=secret password").await);
    assert_ne!(fingerprint("u=admin&id=6").await, fingerprint("u=admin&id=6&test=1").await);
}

/// MOR without the calling-card add-on refuses requests for a group with more than ten cards. The request that created
/// the eleventh card must still be replayed.
#[tokio::test]
async fn request_that_reached_the_card_limit_is_replayed() {
    let server = x7_server().await;
    server
        .execute(
            "update conflines set value = '0' where name = 'CC_Active';
             insert into cards (cardgroup_id, number, pin)
             select 11, (500000 + i)::text, (5000 + i)::text from generate_series(1, 10) i",
        )
        .await;
    let create = async |key: &str| {
        let form = "u=admin&callerid=3702222&amount=5&cardgroup_id=11";
        post_with_key(&server, key, "card_by_cli_update", form, "5370222211").await
    };
    let first = create("k").await;
    assert_eq!(first.element_texts("status"), ["ok"], "{}", first.body);
    assert_replayed(&create("k").await, &first);
    create("other").await.assert_status_error("This is a limited version. You can have only 10 Cards.");
}

/// Replies that earlier versions stored are replayed: the names in the stored JSON don't change.
#[tokio::test]
async fn stored_replies_of_earlier_versions_are_replayed() {
    let server = server().await;
    for (operation, form, hashed, stored, body) in [
        (
            "card_from_group_sell",
            "u=admin&id=6",
            "6",
            r#"{"Done": {"currency": "USD", "cards": [{"number": "17", "pin": null, "balance": "1.50"}, null]}}"#,
            "<number>17</number>",
        ),
        (
            "card_from_group_sell",
            "u=admin&id=6&curr=EUR",
            "6",
            r#"{"Refused": {"form": "PageStatus", "words": ["Free cards was not found"]}}"#,
            "<page>\n  <status>\n    <error>Free cards was not found</error>",
        ),
        (
            "tariff_wholesale_update",
            "u=admin&name=new",
            "new",
            r#"{"Refused": {"form": "ResponseMessages", "words": ["first", "second"]}}"#,
            "<response>\n  <error>\n    <message>first</message>\n    <message>second</message>",
        ),
    ] {
        let key = format!("{operation}{form}");
        post_with_key(&server, &key, operation, form, hashed).await;
        server.execute(&format!("update idempotency_keys set reply = '{stored}' where key = '{key}'")).await;
        let reply = post_with_key(&server, &key, operation, form, hashed).await;
        assert_eq!(reply.header("idempotency-replayed"), Some("true"), "{}", reply.body);
        assert!(reply.body.contains(body), "{}", reply.body);
    }
}

/// A reply that another version has stored and this one cannot read: the request is not carried out again, and no
/// refusal invites the client to send it with another key.
#[tokio::test]
async fn unreadable_stored_reply_is_no_refusal() {
    let server = server().await;
    sell(&server, "k", 6).await;
    server.execute(r#"update idempotency_keys set reply = '{"Done": {"unknown": 1}}'"#).await;
    let reply = sell(&server, "k", 6).await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, None), "{}", reply.body);
    reply.assert_status_error("The stored reply cannot be read: the request was carried out or refused before");
    server.assert_rows("select count(*) from payments", &["1"]).await;
}
