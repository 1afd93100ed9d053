//! `tariff_wholesale_update` (`endpoints/tariff_wholesale_update.md`).

use crate::harness::{Reply, Server, hash, server, x7_server};

const UPDATE: &str = "tariff_wholesale_update";
const TARIFFS: &str = "select id, name, purpose, owner_id, currency, code_deck_id from tariffs order by id";

async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into tariffs (id, name, purpose, owner_id, currency, last_update_date) values
                 (1, 'retail', 'user', 0, 'USD', '2020-01-01'), (2, 'wholesale', 'user_wholesale', 0, 'EUR', '2020-01-01'),
                 (3, 'wholesale', 'user_wholesale', 3, 'USD', '2020-01-01'), (4, 'accountant''s', 'user_wholesale', 6, 'USD', null);
             insert into acc_rights (id, name) values (3, 'Tariff_manage');
             insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 3, 2), (2, 3, 1);
             select setval('tariffs_id_seq', 100)",
        )
        .await;
}

/// Sends a request with the hash over name, id and currency. The value `-` leaves a parameter out.
async fn send(server: &Server, user: &str, id: &str, name: &str, currency: &str) -> Reply {
    let mut form = format!("u={user}");
    let mut hashed = String::new();
    for (parameter, value) in [("name", name), ("id", id), ("currency", currency)] {
        if value != "-" {
            form += &format!("&{parameter}={value}");
        }
    }
    for value in [name, id, currency].into_iter().filter(|value| *value != "-") {
        hashed += value;
    }
    server
        .post(UPDATE, &format!("{form}&hash={}", hash(&hashed, if user == "reseller" { "reskey" } else { "secret" })))
        .await
}

fn assert_created(reply: &Reply) {
    let id = reply.element_texts("tariff_id")[0];
    reply.assert_body(&format!("<page>\n  <status>ok</status>\n  <tariff_id>{id}</tariff_id>\n</page>"));
}

#[track_caller]
fn assert_updated(reply: &Reply) {
    reply.assert_body("<page>\n  <status>ok</status>\n</page>");
}

#[track_caller]
fn assert_error(reply: &Reply, message: &str) {
    reply.assert_body(&format!("<page>\n  <error>{message}</error>\n</page>"));
}

#[tokio::test]
async fn creates_a_tariff() {
    let server = server().await;
    insert_fixtures(&server).await;
    assert_created(&send(&server, "admin", "-", "new", "eur").await);
    assert_created(&send(&server, "reseller", "0", "new", "-").await);
    assert_created(&send(&server, "accountant", "", "Neu", "USD").await);
    assert_created(&send(&server, "admin", "VFT", "A", "-").await);
    server
        .assert_rows(
            "select name, purpose, owner_id, currency, code_deck_id, last_update_date > now() - interval '1 minute' as now
             from tariffs where id > 100 order by id",
            &[
                "new|user_wholesale|0|EUR|1|true",
                // The reseller's own currency.
                "new|user_wholesale|3|EUR|1|true",
                "Neu|user_wholesale|0|USD|1|true",
                "A|user_wholesale|0|USD|1|true",
            ],
        )
        .await;
}

#[tokio::test]
async fn updates_a_tariff() {
    let server = server().await;
    insert_fixtures(&server).await;
    assert_updated(&send(&server, "admin", "2", "other", "-").await);
    assert_updated(&send(&server, "accountant", "2", "-", "USD").await);
    assert_updated(&send(&server, "reseller", "3", "other", "LTL").await);
    assert_updated(&send(&server, "reseller", "3", "other", "-").await);
    server
        .assert_rows(
            "select name, currency, last_update_date > now() - interval '1 minute' as now from tariffs where id in (2, 3) order by id",
            &["other|USD|true", "other|LTL|true"],
        )
        .await;
}

#[tokio::test]
async fn hash_accepts_the_three_values_in_any_order() {
    let server = server().await;
    insert_fixtures(&server).await;
    for (index, values) in ["2aUSD", "2USDa", "a2USD", "aUSD2", "USD2a", "USDa2"].iter().enumerate() {
        let reply = server.post_signed(UPDATE, "u=admin&id=2&name=a&currency=USD", values).await;
        assert_updated(&reply);
        assert_eq!(server.rows("select count(*) from actions").await, ["0"], "{index}");
    }
    server.post_signed(UPDATE, "u=admin&id=2&name=a&currency=USD", "2a").await.assert_status_error("Incorrect hash");
    // By the rule of `hash-parameters.md` other sent parameters are hashed too.
    let reply = server.post_signed("wholesale_tariff", "u=admin&id=2&name=a&currency=USD&email=e", "ea2USD").await;
    assert_updated(&reply);
}

#[tokio::test]
async fn users_with_and_without_rights() {
    let server = server().await;
    insert_fixtures(&server).await;
    for user in ["user", "partner", "unknown", "accountant_none", "accountant_read", "accountant_zero"] {
        assert_error(&send(&server, user, "-", "new", "-").await, "Bad login");
    }
    assert_error(&server.post(UPDATE, "name=new").await, "Bad login");
    // A reseller needs no right.
    let reply = server.post(UPDATE, &format!("u=reseller_none&name=new&hash={}", hash("new", "secret"))).await;
    assert_created(&reply);
    // The hash of a known user is checked before the rights.
    server.post(UPDATE, "u=user&name=new").await.assert_status_error("Incorrect hash");
    server.execute("update conflines set value = '0' where name = 'Allow_GET_API'").await;
    server.get("/api/tariff_wholesale_update?u=user").await.assert_status_error("GET Requests are disabled");
}

#[tokio::test]
async fn tariff_must_be_wholesale_and_owned() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        for (user, id) in [
            ("admin", "1"),
            ("admin", "3"),
            ("admin", "99"),
            ("admin", "-2"),
            ("reseller", "2"),
            ("admin", "99999999999999999999"),
        ] {
            assert_error(&send(server, user, id, "new", "-").await, "Tariff not found");
        }
        server
            .assert_rows(
                TARIFFS,
                &[
                    "1|retail|user|0|USD|1",
                    "2|wholesale|user_wholesale|0|EUR|1",
                    "3|wholesale|user_wholesale|3|USD|1",
                    "4|accountant's|user_wholesale|6|USD|1",
                ],
            )
            .await;
    }
    // In x7 an accountant owns tariffs like any other user.
    assert_error(&send(&server, "accountant", "4", "new", "-").await, "Tariff not found");
    assert_error(&send(&x7, "accountant", "2", "new", "-").await, "Tariff not found");
    assert_updated(&send(&x7, "accountant", "4", "new", "-").await);
}

#[tokio::test]
async fn all_validation_errors_are_listed() {
    let (server, x7) = (server().await, x7_server().await);
    let long = "x".repeat(256);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
    }
    let elements = |messages: &[&str]| {
        messages.iter().map(|message| format!("    <message>{message}</message>\n")).collect::<String>()
    };
    for (id, name, currency, messages) in [
        ("-", "-", "-", vec!["Name cannot be blank"]),
        ("-", "++", "-", vec!["Name cannot be blank"]),
        ("2", "", "-", vec!["Name cannot be blank"]),
        ("-", "wholesale", "-", vec!["Name must be unique"]),
        ("-", "retail", "USD", vec!["Name must be unique"]),
        ("2", "retail", "-", vec!["Name must be unique"]),
        ("-", "new", "XXX", vec!["Currency was not found"]),
        ("-", "new", "JPY", vec!["Currency was not found"]),
        ("2", "-", "", vec!["Currency was not found"]),
        ("-", "", "XXX", vec!["Name cannot be blank", "Currency was not found"]),
        ("-", long.as_str(), "-", vec!["Name is too long"]),
    ] {
        let sent = name.replace('+', "%20");
        let hashed = [name.replace('+', " ").as_str(), id, currency]
            .iter()
            .filter(|value| **value != "-")
            .copied()
            .collect::<String>();
        let form: String = [("name", sent.as_str()), ("id", id), ("currency", currency)]
            .iter()
            .filter(|(_, value)| *value != "-")
            .map(|(name, value)| format!("&{name}={value}"))
            .collect();
        let reply = server.post_signed(UPDATE, &format!("u=admin{form}"), &hashed).await;
        reply.assert_body(&format!("<response>\n  <error>\n{}  </error>\n</response>", elements(&messages)));
        if messages == ["Name cannot be blank"] || messages == ["Name must be unique"] {
            let reply = x7.post_signed(UPDATE, &format!("u=admin{form}"), &hashed).await;
            reply.assert_body(&format!("<page>\n  <error>\n{}  </error>\n</page>", elements(&messages)));
        }
    }
    server.assert_rows("select count(*) from tariffs", &["4"]).await;
    x7.assert_rows("select count(*) from tariffs", &["4"]).await;
}

#[tokio::test]
async fn x7_accepts_any_currency_and_length() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    assert_created(&send(&server, "admin", "-", "none", "-").await);
    assert_created(&send(&server, "admin", "-", "blank", "").await);
    assert_created(&send(&server, "admin", "-", "any", "xxx").await);
    assert_created(&send(&server, "accountant", "-", &"x".repeat(300), "jpy").await);
    assert_updated(&send(&server, "admin", "2", "-", "jpy").await);
    server
        .assert_rows(
            "select left(name, 5) as name, length(name), owner_id, currency, last_update_date > '2021-01-01' as dated from tariffs where id = 2 or id > 100 order by id",
            &["whole|9|0|jpy|false", "none|4|0|∅|true", "blank|5|0||true", "any|3|0|xxx|true", "xxxxx|255|6|jpy|true"],
        )
        .await;
}

#[tokio::test]
async fn names_in_any_alphabet_and_letter_case() {
    let server = server().await;
    insert_fixtures(&server).await;
    assert_created(&send(&server, "admin", "-", "Wholesale", "-").await);
    assert_created(
        &server
            .post_signed(UPDATE, "u=admin&name=A+%26+%3Cb%3E+%22q%22+'é'+漢💳%0A--%3B", "A & <b> \"q\" 'é' 漢💳\n--;")
            .await,
    );
    server
        .assert_rows("select name = E'A & <b> \"q\" ''é'' 漢💳\\n--;' as same from tariffs where id > 101", &["true"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_for_one_name_create_one_tariff() {
    let server = server().await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { send(&server, "admin", "-", "shared", "-").await })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        match reply.element_texts("message")[..] {
            [] => created += 1,
            [message] => assert_eq!(message, "Name must be unique"),
            _ => panic!("{}", reply.body),
        }
    }
    assert_eq!(created, 1);
    server.assert_rows("select count(*) from tariffs", &["1"]).await;
}
