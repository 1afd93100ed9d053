//! `mortise sign` and `mortise explain-hash`.

use sha1::{Digest, Sha1};

use super::{CommandOutput, Operator};
use crate::harness::hash;

/// The hash of the example in MOR's documentation: group 6, two cards, the secret key `456789`.
const EXAMPLE_HASH: &str = "37086d860581fabc278413cd1a417d5c079f6eba";

async fn with_documented_key() -> Operator {
    let operator = Operator::with(&[]).await;
    operator
        .server
        .execute("update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 0")
        .await;
    operator
}

#[tokio::test]
async fn documented_example_is_signed() {
    let operator = with_documented_key().await;
    let output = operator.run_ok(&["sign", "card_from_group_sell", "id=6", "quantity=2", "--key-of", "admin"]);
    assert_eq!(
        output,
        format!(
            "parameters  id, quantity\n\
             hashed      62<secret key>\n\
             hash        {EXAMPLE_HASH}\n\
             \n\
             curl -d 'u=admin&id=6&quantity=2&hash={EXAMPLE_HASH}' \
             http://127.0.0.1:3000/billing/api/card_from_group_sell\n"
        )
    );
    // The server admits the printed request.
    let form = output.split('\'').nth(1).unwrap();
    assert_eq!(operator.server.post("card_from_group_sell", form).await.element_texts("number").len(), 2);
    // Other hashes of the contract, one of them by a legacy rule.
    for (operation, parameters, hash) in [
        ("card_from_group_sell", &["u=admin", "quantity=2", "id=6", "test=1"][..], EXAMPLE_HASH),
        ("card_group_get", &["u=admin", "id=6"], "67df827dec80a7241fb3fc4de22a90e62c5e8d93"),
        ("cc_by_cli", &["u=admin", "callerid=123"], "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
    ] {
        let json = operator.run_json(&[&["sign", operation], parameters].concat());
        assert_eq!(json["hash"], hash, "{json}");
        assert!(!json.to_string().contains("456789"), "{json}");
    }
    let json = operator.run_json(&["sign", "card_from_group_sell", "u=admin", "id=6", "test=1", "email=a b&c'd@e.f"]);
    assert_eq!(json["not_hashed"], serde_json::json!(["test"]));
    assert!(json["curl"].as_str().unwrap().contains("&email=a%20b%26c%27d%40e.f&hash="), "{json}");
}

#[tokio::test]
async fn invalid_requests_are_not_signed() {
    let operator = with_documented_key().await;
    let sell = |parameters: &[&'static str]| [&["sign", "card_from_group_sell", "id=6"], parameters].concat();
    operator.assert_error(
        &["sign", "sell_cards", "id=6"],
        3,
        "there is no operation \"sell_cards\"; available: card_from_group_sell,",
    );
    operator.assert_error(&["sign", "card_group_get/6", "u=admin"], 3, "there is no operation \"card_group_get/6\"");
    operator.assert_error(&sell(&[]), 2, "a user is missing");
    operator.assert_error(&sell(&["u=unknown"]), 3, "there is no user \"unknown\"");
    operator.assert_error(&sell(&["u=admin", "quantity"]), 2, "parameters must have the form NAME=VALUE");
    operator.server.execute("delete from conflines where name = 'API_Secret_Key'").await;
    operator.assert_error(&sell(&["u=admin"]), 3, "admin has no valid secret key");
}

#[tokio::test]
async fn reseller_request_is_signed_with_its_own_key() {
    let operator = Operator::new().await;
    let json = operator.run_json(&["sign", "card_from_group_sell", "u=reseller", "id=12"]);
    assert_eq!(json["hash"], hash("12", "reskey"));
    operator.server.execute("delete from conflines where owner_id = 3").await;
    let json = operator.run_json(&["sign", "card_from_group_sell", "u=reseller", "id=12"]);
    assert_eq!(json["hash"], hash("12", "secret"));
}

fn explain(operator: &Operator, operation: &str, form: &str) -> CommandOutput {
    operator.run(&["explain-hash", &format!("http://shop.test/billing/api/{operation}"), "--data", form])
}

/// Explains the hash of a sale with `id=6&quantity=2`. No key may be in the output.
#[track_caller]
fn assert_explained(operator: &Operator, hashed: &str, code: i32, message: &str) {
    let output = explain(operator, "buy_card_from_callingroup", &format!("u=admin&id=6&quantity=2&hash={hashed}"));
    assert!(
        output.code == code && output.stdout.contains(message) && output.stderr.is_empty(),
        "{message}: {output:?}"
    );
    assert!(!output.stdout.contains("456789") && !output.stdout.contains("oldkey"), "{output:?}");
}

#[tokio::test]
async fn correct_hash_is_confirmed() {
    let operator = with_documented_key().await;
    let output = explain(&operator, "card_from_group_sell", &format!("u=ADMIN&id=6&quantity=2&hash={EXAMPLE_HASH}"));
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (
            0,
            "The hash is correct: the values of id, quantity and the secret key of admin.\n  \
             parameters  id, quantity\n  hashed      62<secret key>\n"
        )
    );
    let json = operator.run_json(&[
        "explain-hash",
        "/api/card_from_group_sell",
        "--data",
        &format!("{{\"u\":\"admin\",\"id\":6,\"quantity\":2,\"hash\":\"{EXAMPLE_HASH}\"}}"),
    ]);
    assert_eq!(json["valid"], true);
    operator.server.execute("update conflines set value = '0' where name = 'Allow_GET_API'").await;
    let url =
        format!("http://shop.test/billing/api/card_from_group_sell.xml?u=admin&id=6&quantity=2&hash={EXAMPLE_HASH}#x");
    let output = operator.run_ok(&["explain-hash", &url]);
    assert!(output.contains("Notes:\n  - GET is off"), "{output}");
}

#[tokio::test]
async fn wrong_hash_is_explained() {
    let operator = with_documented_key().await;
    operator
        .server
        .execute(
            "insert into conflines (owner_id, name, value, value2)
             values (0, 'API_Secret_Key_Previous', 'oldkey', '2020-01-01 00:00:00')",
        )
        .await;
    for (values, key, message) in [
        ("26", "456789", "the client hashes quantity, id instead of id, quantity, with the secret key of admin"),
        ("6", "456789", "the client hashes id instead of id, quantity, with"),
        ("", "456789", "the client hashes no parameters instead of id, quantity, with"),
        ("62admin", "456789", "the client hashes id, quantity, u instead of id, quantity, with"),
        ("admin26", "oldkey", "hashes u, quantity, id instead of id, quantity, with the previous secret key of admin"),
        ("62", "oldkey", "with the previous secret key of admin, which is not valid for this user"),
        ("62", "reskey", "with the secret key of reseller, which is not valid for this user"),
        ("62", "", "the client hashes no key"),
        ("62", "456789\n", "the client hashes a line end after the key, with the secret key of admin"),
        ("62", "456789\r\n", "the client hashes a line end after the key, with the secret key of admin"),
        ("456789", "62", "the client hashes the key before the values"),
        ("6&2&", "456789", "the client hashes \"&\" between the values"),
        ("6|2", "456789", "the client hashes \"|\" between the values"),
        ("id=6&quantity=2", "456789", "the client hashes names and values"),
    ] {
        assert_explained(&operator, &hash(values, key), 1, message);
    }
    assert_explained(&operator, &hash("62", &hash("456789", "")), 1, "the client hashes the SHA-1 of the key");
    assert_explained(
        &operator,
        &hash("62", "unknown"),
        1,
        "no key in the database with any order or selection of the parameters produces it",
    );
    assert_explained(&operator, "", 1, "The request has no hash.");
    assert_explained(&operator, &"a".repeat(32), 1, "the length of an MD5");
    assert_explained(&operator, &"a".repeat(64), 1, "the length of a SHA-256");
    assert_explained(&operator, "hash", 1, "a SHA-1 has 40 hexadecimal digits");
    assert_explained(&operator, &format!("%20{EXAMPLE_HASH}"), 1, "but there are spaces around the hash");
    operator
        .server
        .execute("update conflines set value2 = '2999-01-01 00:00:00' where name = 'API_Secret_Key_Previous'")
        .await;
    assert_explained(&operator, &hash("62", "oldkey"), 0, "the previous secret key of admin");
}

#[tokio::test]
async fn hash_of_escaped_values_is_recognised() {
    let operator = with_documented_key().await;
    for (hashed, message) in [
        ("a%20b%40c6", "the client hashes the values in their URL-escaped form"),
        ("a+b@c6", "the client hashes spaces as +"),
    ] {
        let form = format!("u=admin&id=6&email=a%20b%40c&hash={}", hash(hashed, "456789"));
        let output = explain(&operator, "card_from_group_sell", &form);
        assert!(output.code == 1 && output.stdout.contains(message), "{output:?}");
    }
}

#[tokio::test]
async fn hash_of_latin1_bytes_is_recognised() {
    let operator = with_documented_key().await;
    let message = "the client hashes Latin-1 bytes (ISO 8859-1) instead of UTF-8, with the secret key of admin";
    let explain_sha1 = |bytes: &[u8]| {
        let form = format!("u=admin&name=Caf%C3%A9&hash={}", hex::encode(Sha1::digest(bytes)));
        explain(&operator, "cc_group_create", &form)
    };
    let output = explain_sha1(b"Caf\xe9456789");
    assert!(output.code == 1 && output.stdout.contains(message), "{output:?}");
    operator
        .server
        .execute("update conflines set value = 'cl\u{e9}' where name = 'API_Secret_Key' and owner_id = 0")
        .await;
    for bytes in [&b"Caf\xe9cl\xe9"[..], b"Caf\xe9cl\xc3\xa9"] {
        let output = explain_sha1(bytes);
        assert!(output.code == 1 && output.stdout.contains(message), "{output:?}");
    }
}

/// The client sends one hash with every request.
#[tokio::test]
async fn fixed_hash_is_recognised() {
    let operator = with_documented_key().await;
    operator
        .server
        .execute("update conflines set value = 'another' where name = 'API_Secret_Key' and owner_id = 0")
        .await;
    for (fixed, message) in [
        (EXAMPLE_HASH, "the hash from the published example of card_from_group_sell: compute the hash for each"),
        ("F7C3BC1D808E04732ADF679965CCC34CA7AE3441", "the hash from the published example of cc_by_cli"),
        ("7e112ededcfee097cce21b6201c6d2a00dda1f4c", "the hash from the published example of cc_group_create"),
        ("da39a3ee5e6b4b0d3255bfef95601890afd80709", "the client hashes an empty text: compute the hash for each"),
    ] {
        assert_explained(&operator, fixed, 1, message);
    }
}

#[tokio::test]
async fn line_end_of_the_stored_key_is_reported() {
    let operator = with_documented_key().await;
    for line_end in ["\n", "\r\n"] {
        operator
            .server
            .execute(&format!(
                "update conflines set value = '456789{line_end}' where name = 'API_Secret_Key' and owner_id = 0"
            ))
            .await;
        assert_explained(&operator, EXAMPLE_HASH, 1, "the key in the database ends with a line end");
    }
}

#[tokio::test]
async fn doubled_slashes_of_a_url_count_as_one() {
    let operator = with_documented_key().await;
    let url = "http://shop.test//billing//api/card_from_group_sell?u=admin";
    let output = operator.run(&["explain-hash", url, "--data", &format!("id=6&quantity=2&hash={EXAMPLE_HASH}")]);
    assert!(output.code == 0 && output.stdout.contains("The hash is correct"), "{output:?}");
}

#[tokio::test]
async fn other_refusal_reasons_are_reported() {
    let operator = with_documented_key().await;
    let form = format!("u=admin&id=6&quantity=2&hash={EXAMPLE_HASH}");
    operator.assert_error(&["explain-hash", "http://shop.test/billing/api/sell"], 3, "there is no operation \"sell\"");
    operator.assert_error(&["explain-hash", "/api/card_from_group_sell?u=unknown"], 3, "there is no user \"unknown\"");
    operator.assert_error(&["explain-hash", "/api/card_from_group_sell?u=%zz"], 1, "malformed % escape");
    operator
        .server
        .execute("update users set blocked = 1 where id = 0; update conflines set value = '0' where name = 'Allow_API'")
        .await;
    let output = explain(&operator, "card_from_group_sell", &form);
    assert!(
        output.stdout.contains("the user is blocked") && output.stdout.contains("the API is off for this user"),
        "{output:?}"
    );
    operator
        .server
        .execute("insert into conflines (name, value, owner_id) values ('API_Disable_hash_checking', '1', 0)")
        .await;
    let output = explain(&operator, "card_from_group_sell", &form.replace("hash=3", "hash=4"));
    assert!(output.code == 0 && output.stdout.contains("it is not checked"), "{output:?}");
    // No secret key at all.
    operator
        .server
        .execute("delete from conflines where name = 'API_Disable_hash_checking' or name = 'API_Secret_Key'")
        .await;
    let output = explain(&operator, "card_from_group_sell", &form);
    assert!(output.code == 1 && output.stdout.contains("This user has no valid secret key"), "{output:?}");
}

#[tokio::test]
async fn legacy_rule_is_reported() {
    let operator = with_documented_key().await;
    let form = "u=admin&callerid=123&amount=5&hash=f7c3bc1d808e04732adf679965ccc34ca7ae3441";
    let output = explain(&operator, "cc_by_cli", form);
    assert_eq!(output.code, 0, "{output:?}");
    let mut strict = super::command(&["explain-hash", "/api/cc_by_cli", "--data", form]);
    strict.env("DATABASE_URL", &operator.url).env("MORTISE_LEGACY_HASHES", "false");
    let output = super::run_command(strict, "");
    assert!(
        output.code == 1 && output.stdout.contains("by the old rule, which the setting legacy_hashes refuses"),
        "{output:?}"
    );
}
