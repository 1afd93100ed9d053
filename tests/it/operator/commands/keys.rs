//! `mortise key`.

use super::{ADMITTED, Operator};

const SOLD_OUT: &str = "Cardgroup was not found";

#[tokio::test]
async fn a_key_is_rotated_without_a_gap() {
    let operator = Operator::new().await;
    let said = operator.says(&["key", "rotate"]);
    let mut lines = said.lines();
    let key = lines.next().unwrap().strip_prefix("New API secret key: ").unwrap();
    assert!(key.len() == 48 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    assert!(lines.next().unwrap().starts_with("The key before counts until "));
    for key in [key, "secret"] {
        operator.ask("admin", key).await.assert_page_error(ADMITTED);
    }
    let in_a_week = "select value2::timestamp - (now() at time zone 'utc') between '6 days 23:59' and '7 days' as week
                     from conflines where name = 'API_Secret_Key_Previous'";
    operator.server.assert_rows(in_a_week, &["true"]).await;
    assert_eq!(operator.says(&["key", "end"]), "No previous key counts.\n");
    operator.ask("admin", "secret").await.assert_status_error("Incorrect hash");
    operator.ask("admin", key).await.assert_page_error(ADMITTED);
    // Where a key has leaked none is kept; and a second rotation ends the key before the first.
    let second = operator.json(&["key", "rotate", "--keep", "2h"])["key"].as_str().unwrap().to_owned();
    let third = operator.json(&["key", "rotate", "--keep", "0s"]);
    assert!(third["previous_until"].is_null());
    for key in [key, &second] {
        operator.ask("admin", key).await.assert_status_error("Incorrect hash");
    }
    operator.ask("admin", third["key"].as_str().unwrap()).await.assert_page_error(ADMITTED);
    let actions = ["secret_key_changed", "previous_secret_key_ended", "secret_key_changed", "secret_key_changed"];
    operator.server.assert_rows("select action from actions where action <> 'error' order by id", &actions).await;
    let noted = operator.server.rows("select data, data2, data3, data4 from actions").await.concat();
    assert!(![key, &second, "secret"].iter().any(|key| noted.contains(key)), "{noted}");
    operator.refuses(&["key", "rotate", "--keep", "soon"], 2, "invalid value 'soon'");
    operator.refuses(&["key", "rotate", "--keep", "300000y"], 2, "--keep is too long");
}

#[tokio::test]
async fn a_key_of_ones_own_comes_by_standard_input() {
    let operator = Operator::new().await;
    let said = operator.send("mine\n", &["key", "set"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "The secret key was set.\n", ""));
    operator.ask("admin", "mine").await.assert_page_error(ADMITTED);
    operator.ask("admin", "secret").await.assert_status_error("Incorrect hash");
    operator.refuses(&["key", "set"], 2, "the secret key is empty");
    operator.refuses(&["key", "show"], 2, "--yes");
    assert_eq!(operator.says(&["key", "show", "--yes"]), "mine\n");
    operator.noted(&["0|secret_key_shown|User|0||"]).await;
    operator.server.execute("delete from conflines where name = 'API_Secret_Key' and owner_id = 0").await;
    operator.refuses(&["key", "show", "--yes"], 3, "no secret key is set");
    // A first key goes before none.
    assert!(operator.json(&["key", "rotate"])["previous_until"].is_null());
    operator
        .server
        .assert_rows("select count(*) from conflines where name like 'API_Secret_Key%' and owner_id = 0", &["1"])
        .await;
}

#[tokio::test]
async fn a_reseller_has_a_key_of_its_own() {
    let operator = Operator::new().await;
    let key = operator.json(&["key", "rotate", "--user", "Reseller"])["key"].as_str().unwrap().to_owned();
    for key in [&key, "reskey", "secret"] {
        operator.ask("reseller", key).await.assert_page_error(SOLD_OUT);
    }
    operator.ask("admin", &key).await.assert_status_error("Incorrect hash");
    operator.says(&["key", "end", "--user", "reseller"]);
    operator.ask("reseller", "reskey").await.assert_status_error("Incorrect hash");
    operator.refuses(
        &["key", "rotate", "--user", "customer"],
        1,
        "customer has no settings: those of the owner (user id 3) count",
    );
    operator.refuses(&["key", "rotate", "--user", "nobody"], 3, "there is no user \"nobody\"");
}
