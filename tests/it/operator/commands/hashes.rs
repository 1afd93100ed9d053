//! `mortise sign` and `mortise explain-hash`.

use super::{Operator, Said};
use crate::harness::hash;

/// The published page's own.
const GOLDEN: &str = "37086d860581fabc278413cd1a417d5c079f6eba";

async fn with_the_pages_key() -> Operator {
    let operator = Operator::with(&[]).await;
    operator
        .server
        .execute("update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 0")
        .await;
    operator
}

#[tokio::test]
async fn the_pages_example_is_signed() {
    let operator = with_the_pages_key().await;
    let said = operator.says(&["sign", "card_from_group_sell", "id=6", "quantity=2", "--key-of", "admin"]);
    assert_eq!(
        said,
        format!(
            "parameters  id, quantity\n\
             hashed      62<secret key>\n\
             hash        {GOLDEN}\n\
             \n\
             curl -d 'u=admin&id=6&quantity=2&hash={GOLDEN}' http://127.0.0.1:3000/billing/api/card_from_group_sell\n"
        )
    );
    // The request that it prints is admitted.
    let form = said.split('\'').nth(1).unwrap();
    assert_eq!(operator.server.post("card_from_group_sell", form).await.element_texts("number").len(), 2);
    // The spec's other values, the older rule among them.
    for (operation, parameters, hash) in [
        ("card_from_group_sell", &["u=admin", "quantity=2", "id=6", "test=1"][..], GOLDEN),
        ("card_group_get", &["u=admin", "id=6"], "67df827dec80a7241fb3fc4de22a90e62c5e8d93"),
        ("cc_by_cli", &["u=admin", "callerid=123"], "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
    ] {
        let json = operator.json(&[&["sign", operation], parameters].concat());
        assert_eq!(json["hash"], hash, "{json}");
        assert!(!json.to_string().contains("456789"), "{json}");
    }
    let json = operator.json(&["sign", "card_from_group_sell", "u=admin", "id=6", "test=1", "email=a b&c'd@e.f"]);
    assert_eq!(json["not_hashed"], serde_json::json!(["test"]));
    assert!(json["curl"].as_str().unwrap().contains("&email=a%20b%26c%27d%40e.f&hash="), "{json}");
}

#[tokio::test]
async fn what_cannot_be_signed_is_refused() {
    let operator = with_the_pages_key().await;
    let sell = |more: &[&'static str]| [&["sign", "card_from_group_sell", "id=6"], more].concat();
    operator.refuses(
        &["sign", "sell_cards", "id=6"],
        3,
        "there is no operation \"sell_cards\"; there are card_from_group_sell,",
    );
    operator.refuses(&["sign", "card_group_get/6", "u=admin"], 3, "there is no operation \"card_group_get/6\"");
    operator.refuses(&sell(&[]), 2, "name a user");
    operator.refuses(&sell(&["u=nobody"]), 3, "there is no user \"nobody\"");
    operator.refuses(&sell(&["u=admin", "quantity"]), 2, "parameters look like id=6");
    operator.server.execute("delete from conflines where name = 'API_Secret_Key'").await;
    operator.refuses(&sell(&["u=admin"]), 3, "no secret key counts for admin");
}

#[tokio::test]
async fn a_reseller_signs_with_its_own_key() {
    let operator = Operator::new().await;
    let json = operator.json(&["sign", "card_from_group_sell", "u=reseller", "id=12"]);
    assert_eq!(json["hash"], hash("12", "reskey"));
    operator.server.execute("delete from conflines where owner_id = 3").await;
    let json = operator.json(&["sign", "card_from_group_sell", "u=reseller", "id=12"]);
    assert_eq!(json["hash"], hash("12", "secret"));
}

fn explain(operator: &Operator, operation: &str, form: &str) -> Said {
    operator.run(&["explain-hash", &format!("http://shop.test/billing/api/{operation}"), "--data", form])
}

/// Explains a sale of `id=6&quantity=2` whose client hashed something else.
#[track_caller]
fn is_explained(operator: &Operator, hashed: &str, code: i32, words: &str) {
    let said = explain(operator, "buy_card_from_callingroup", &format!("u=admin&id=6&quantity=2&hash={hashed}"));
    assert!(said.code == code && said.out.contains(words) && said.err.is_empty(), "{words}: {said:?}");
    assert!(!said.out.contains("456789") && !said.out.contains("oldkey"), "{said:?}");
}

#[tokio::test]
async fn a_right_hash_is_said_to_be_right() {
    let operator = with_the_pages_key().await;
    let said = explain(&operator, "card_from_group_sell", &format!("u=ADMIN&id=6&quantity=2&hash={GOLDEN}"));
    assert_eq!(
        (said.code, said.out.as_str()),
        (
            0,
            "The hash is right: the values of id, quantity and the secret key of admin.\n  parameters  id, quantity\n  hashed      62<secret key>\n"
        )
    );
    let json = operator.json(&[
        "explain-hash",
        "/api/card_from_group_sell",
        "--data",
        &format!("{{\"u\":\"admin\",\"id\":6,\"quantity\":2,\"hash\":\"{GOLDEN}\"}}"),
    ]);
    assert_eq!(json["valid"], true);
    operator.server.execute("update conflines set value = '0' where name = 'Allow_GET_API'").await;
    let url = format!("http://shop.test/billing/api/card_from_group_sell.xml?u=admin&id=6&quantity=2&hash={GOLDEN}#x");
    let said = operator.says(&["explain-hash", &url]);
    assert!(said.contains("Besides:\n  - GET is off"), "{said}");
}

#[tokio::test]
async fn a_wrong_hash_is_explained() {
    let operator = with_the_pages_key().await;
    operator
        .server
        .execute("insert into conflines (owner_id, name, value, value2) values (0, 'API_Secret_Key_Previous', 'oldkey', '2020-01-01 00:00:00')")
        .await;
    for (values, key, words) in [
        ("26", "456789", "quantity, id are hashed and not id, quantity, with the secret key of admin"),
        ("6", "456789", "id are hashed and not id, quantity, with"),
        ("", "456789", "nothing are hashed and not id, quantity, with"),
        ("62admin", "456789", "id, quantity, u are hashed and not id, quantity, with"),
        ("admin26", "oldkey", "u, quantity, id are hashed and not id, quantity, with the previous secret key of admin"),
        ("62", "oldkey", "with the previous secret key of admin, which doesn't count for this user (any more)"),
        ("62", "reskey", "with the secret key of reseller, which doesn't count for this user"),
        ("62", "", "no key is hashed at all"),
        ("62", "456789\n", "a line end is hashed behind the key, with the secret key of admin"),
        ("456789", "62", "the key goes before the values"),
        ("6&2&", "456789", "\"&\" stands between the values"),
        ("6|2", "456789", "\"|\" stands between the values"),
        ("id=6&quantity=2", "456789", "names are hashed along with the values"),
    ] {
        is_explained(&operator, &hash(values, key), 1, words);
    }
    is_explained(&operator, &hash("62", &hash("456789", "")), 1, "the key's own SHA-1 is hashed");
    is_explained(
        &operator,
        &hash("62", "unknown"),
        1,
        "no key in the database, order or choice of parameters makes it",
    );
    is_explained(&operator, "", 1, "There is no hash in the request.");
    is_explained(&operator, &"a".repeat(32), 1, "as long as an MD5");
    is_explained(&operator, &"a".repeat(64), 1, "as long as a SHA-256");
    is_explained(&operator, "hash", 1, "a SHA-1 is 40 hexadecimal digits");
    is_explained(&operator, &format!("%20{GOLDEN}"), 1, "without the spaces around it");
    operator
        .server
        .execute("update conflines set value2 = '2999-01-01 00:00:00' where name = 'API_Secret_Key_Previous'")
        .await;
    is_explained(&operator, &hash("62", "oldkey"), 0, "the previous secret key of admin");
}

#[tokio::test]
async fn values_that_a_client_escapes_before_it_hashes_them_are_found() {
    let operator = with_the_pages_key().await;
    for (hashed, words) in
        [("a%20b%40c6", "the values are hashed as the URL escapes them"), ("a+b@c6", "spaces are hashed as +")]
    {
        let form = format!("u=admin&id=6&email=a%20b%40c&hash={}", hash(hashed, "456789"));
        let said = explain(&operator, "card_from_group_sell", &form);
        assert!(said.code == 1 && said.out.contains(words), "{said:?}");
    }
}

#[tokio::test]
async fn what_else_refuses_a_request_is_named() {
    let operator = with_the_pages_key().await;
    let form = format!("u=admin&id=6&quantity=2&hash={GOLDEN}");
    operator.refuses(&["explain-hash", "http://shop.test/billing/api/sell"], 3, "there is no operation \"sell\"");
    operator.refuses(&["explain-hash", "/api/card_from_group_sell?u=nobody"], 3, "there is no user \"nobody\"");
    operator.refuses(&["explain-hash", "/api/card_from_group_sell?u=%zz"], 1, "malformed % escape");
    operator
        .server
        .execute("update users set blocked = 1 where id = 0; update conflines set value = '0' where name = 'Allow_API'")
        .await;
    let said = explain(&operator, "card_from_group_sell", &form);
    assert!(said.out.contains("the user is blocked") && said.out.contains("the API is off for this user"), "{said:?}");
    operator
        .server
        .execute("insert into conflines (name, value, owner_id) values ('API_Disable_hash_checking', '1', 0)")
        .await;
    let said = explain(&operator, "card_from_group_sell", &form.replace("hash=3", "hash=4"));
    assert!(said.code == 0 && said.out.contains("nobody looks at it"), "{said:?}");
    // A key that doesn't count.
    operator
        .server
        .execute("delete from conflines where name = 'API_Disable_hash_checking' or name = 'API_Secret_Key'")
        .await;
    let said = explain(&operator, "card_from_group_sell", &form);
    assert!(said.code == 1 && said.out.contains("No secret key counts for this user"), "{said:?}");
}

#[tokio::test]
async fn the_older_rule_is_named() {
    let operator = with_the_pages_key().await;
    let form = "u=admin&callerid=123&amount=5&hash=f7c3bc1d808e04732adf679965ccc34ca7ae3441";
    let said = explain(&operator, "cc_by_cli", form);
    assert_eq!(said.code, 0, "{said:?}");
    let mut strict = super::command(&["explain-hash", "/api/cc_by_cli", "--data", form]);
    strict.env("DATABASE_URL", &operator.url).env("MORTISE_LEGACY_HASHES", "false");
    let said = super::said(strict, "");
    assert!(
        said.code == 1 && said.out.contains("by the older rule, which the setting legacy_hashes refuses"),
        "{said:?}"
    );
}
