//! `/users`: API users, their keys, and refused hashes.

use axum::http::StatusCode;
use mortise::console::access::Role;

use super::{Page, console, console_with_settings, random_id};
use crate::harness::hash;
use crate::harness::log::LogCapture;

const PASSWORD: &str = "correct horse battery";
/// The reply of the API to an admitted sale from an empty group.
const ADMITTED: &str = "Free cards was not found";

/// The key or password on the page that shows it once.
#[track_caller]
fn shown_secret(page: &Page, label: &str) -> String {
    let tag = page.body.split('<').find(|tag| tag.contains(&format!("data-copy-label=\"{label}\"")));
    let value = tag.unwrap_or_else(|| panic!("no {label}: {}", page.body)).split_once("data-copy=\"").unwrap().1;
    value.split('"').next().unwrap().to_owned()
}

/// The first link that contains `part`.
pub fn link(page: &Page, part: &str) -> Option<String> {
    let links = page.body.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    links.map(|link| link.replace("&#x2f;", "/").replace("&amp;", "&")).find(|link| link.contains(part))
}

#[tokio::test]
async fn users_are_listed_and_found() {
    let console = console().await;
    console
        .server
        .execute(
            "update users set blocked = 1 where id = 2; update users set hidden = 1, username = '<i>gone</i>' where id = 10;
             insert into acc_groups (id, name, group_type) values (4, 'Agents', 'reseller')",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.get("/users").await;
    page.assert_contains("do not need the password: the setting require_password is off.");
    page.assert_contains("3 reseller reseller admin Agents active set SHA-1");
    page.assert_contains("4 reseller_read reseller admin active not set SHA-1");
    page.assert_contains("2 user user admin blocked set");
    page.assert_contains("10 <i>gone</i> partner admin Agents hidden set");
    assert!(!page.body.contains("<i>gone"), "{}", page.body);
    let page = admin.get("/users?kind=reseller&name=READ").await;
    page.assert_contains("reseller_read");
    page.assert_lacks("reseller_none");
    // The list has pages.
    console
        .server
        .execute(
            "insert into users (id, username, usertype) select i, 'u' || i, 'user' from generate_series(201, 350) i",
        )
        .await;
    let page = admin.get("/users?kind=user&name=u").await;
    page.assert_contains("u298");
    page.assert_lacks("u299");
    let page = admin.get(&link(&page, "after=").unwrap()).await;
    page.assert_contains("u299");
    page.assert_contains("u350");
    page.assert_lacks("u298");
}

#[tokio::test]
async fn added_user_can_sell() {
    let console = console().await;
    console.server.execute("insert into acc_groups (id, name, group_type) values (1, 'Clerks', 'accountant')").await;
    let admin = console.log_in(Role::Admin).await;
    let fields = |name: &'static str, password: &'static str, repeated: &'static str| {
        [
            ("name", name),
            ("kind", "accountant"),
            ("owner", ""),
            ("group", "Clerks"),
            ("password", password),
            ("repeated", repeated),
        ]
    };
    for (form, text) in [
        (fields("", PASSWORD, PASSWORD), "The name cannot be used: a name has 1 to 255 characters."),
        (fields("x ", PASSWORD, PASSWORD), "The name cannot be used: it has the invisible character"),
        (fields("ADMIN", PASSWORD, PASSWORD), "The user \"admin\" already exists (id 0)"),
        (fields("clerk", "too short", "too short"), "The password has fewer than 12 characters."),
        (fields("clerk", PASSWORD, "another password"), "The two new passwords differ."),
    ] {
        let page = admin.post("/users", &form).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        page.assert_contains(text);
    }
    console.server.assert_rows("select count(*) from users", &["11"]).await;
    let page = admin.submit("/users", &fields("clerk", PASSWORD, PASSWORD)).await;
    page.assert_contains("The accountant clerk was added, with id 101.");
    page.assert_contains("Callingcard_manage: edit");
    let form = format!("u=clerk&p={}&id=11&hash={}", PASSWORD.replace(' ', "+"), hash("11", "secret"));
    console.server.post("card_from_group_sell", &form).await.assert_page_error(ADMITTED);
    console
        .server
        .assert_rows(
            "select who = $1, what, target_id, target_name, after ->> 'password_argon2' from change_log where what = 'user'"
                .replace("$1", &format!("'{}'", admin.login().name))
                .as_str(),
            &["true|user|101|clerk|(hidden)"],
        )
        .await;
}

#[tokio::test]
async fn new_reseller_can_sell_and_its_secrets_are_shown_once() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let log = LogCapture::start();
    let once = random_id();
    let confirm = admin.confirmation().await;
    let fields = [
        ("token", admin.token.as_str()),
        ("once", &once),
        ("confirm", &confirm),
        ("name", "Card World"),
        ("group", ""),
    ];
    let page = admin.post_plain("/users/resellers", &fields).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    page.assert_contains("The reseller Card World was created, with id 101, the rights of Resellers, the tariff ");
    let (key, password) = (shown_secret(&page, "the key"), shown_secret(&page, "the password"));
    console
        .server
        .assert_rows("select value from conflines where name = 'API_Secret_Key' and owner_id = 101", &[&key])
        .await;
    let group = format!(
        "u=card world&p={password}&name=Ten&price=10&pin_length=8&number_length=10&currency=USD&hash={}",
        hash("Ten", &key)
    );
    let reply = console.server.post("cc_group_create", &group).await;
    assert!(reply.body.contains("Card Group was successfully created"), "{}", reply.body);
    // Each created row is in the change log.
    console
        .server
        .assert_rows(
            "select what, target_id = 101, target_name, after -> 'lcr' ->> 'name', after -> 'taxes' is not null
             from change_log where what in ('right', 'user', 'tariff', 'setting', 'key') order by id",
            &[
                "right|false|Resellers|∅|false",
                "user|true|Card World|Card World|true",
                "tariff|false|Card World|∅|false",
                "setting|true|Allow_API|∅|false",
                "key|true|Card World|∅|false",
            ],
        )
        .await;
    // The same form again shows neither of them, and creates nothing.
    let again = admin.post_plain("/users/resellers", &fields).await;
    assert_eq!(again.status, StatusCode::SEE_OTHER);
    let followed = admin.get(again.location.as_ref().unwrap()).await;
    followed.assert_contains("Password and key were shown once and are not shown again.");
    console.server.assert_rows("select count(*) from users", &["12"]).await;
    let stored = console.server.rows("select console_submissions::text from console_submissions").await.concat();
    let changes = console.server.rows("select change_log::text from change_log").await.concat();
    for secret in [&key, &password] {
        again.assert_secret(secret);
        followed.assert_secret(secret);
        assert!(![&stored, &changes, &log.text()].iter().any(|text| text.contains(secret.as_str())), "{secret}");
    }
}

#[tokio::test]
async fn key_is_rotated_and_shown_once() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let log = LogCapture::start();
    let sell = async |key: &str| {
        let form = format!("u=admin&id=11&hash={}", hash("11", key));
        console.server.post("card_from_group_sell", &form).await
    };
    let once = random_id();
    let without_code = admin.post("/users/0/key", &[]).await;
    assert_eq!(without_code.status, StatusCode::UNPROCESSABLE_ENTITY);
    let confirm = admin.confirmation().await;
    let fields = [("token", admin.token.as_str()), ("once", &once), ("confirm", &confirm)];
    let page = admin.post_plain("/users/0/key", &fields).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    page.assert_contains("admin has a new secret key. The previous key is valid until ");
    let key = shown_secret(&page, "the key");
    for key in [key.as_str(), "secret"] {
        sell(key).await.assert_page_error(ADMITTED);
    }
    console
        .server
        .assert_rows(
            "select value2::timestamp - (now() at time zone 'utc') between '6 days 23:59' and '7 days'
             from conflines where name = 'API_Secret_Key_Previous'",
            &["true"],
        )
        .await;
    let again = admin.post_plain("/users/0/key", &fields).await;
    let followed = admin.get(again.location.as_ref().unwrap()).await;
    followed.assert_contains("The new key was shown once and is not shown again.");
    console
        .server
        .assert_rows("select value from conflines where name = 'API_Secret_Key' and owner_id = 0", &[&key])
        .await;
    let stored = console.server.rows("select console_submissions::text from console_submissions").await.concat();
    let changes = console.server.rows("select change_log::text from change_log").await.concat();
    let user_page = admin.get("/users/0").await;
    user_page.assert_contains("The previous key is valid until ");
    for page in [&again, &followed, &user_page] {
        page.assert_secret(&key);
    }
    assert!(![stored, changes, log.text()].iter().any(|text| text.contains(&key)));
    // Another new key would end the previous one, which clients still use.
    let refused = admin.post_confirmed("/users/0/key", &[]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    refused.assert_contains("If no client uses it, end the previous key first.");
    let ended = admin.submit("/users/0/key/end", &[]).await;
    ended.assert_contains("No previous key is valid.");
    sell("secret").await.assert_status_error("Incorrect hash");
    sell(&key).await.assert_page_error(ADMITTED);
    console
        .server
        .assert_rows(
            "select target_id, after ->> 'key', after ->> 'previous_key' from change_log where what = 'key' order by id",
            &["0|replaced|∅", "0|∅|ended"],
        )
        .await;
    // Only on the page of its owner.
    for (id, text) in [
        (6, "The user accountant has no key of its own: the key of the user with the id 0"),
        (11, "The user customer has no settings"),
    ] {
        let page = admin.post_confirmed(&format!("/users/{id}/key"), &[]).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
        page.assert_contains(text);
    }
}

#[tokio::test]
async fn users_are_blocked_and_get_passwords_and_rights() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into acc_groups (id, name, group_type) values (1, 'Clerks', 'accountant'), (4, 'Agents', 'reseller')",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    let sell = async |password: &str| {
        let form = format!("u=accountant_none&p={}&id=11&hash={}", password.replace(' ', "+"), hash("11", "secret"));
        console.server.post("card_from_group_sell", &form).await
    };
    let page = admin.submit("/users/9/rights", &[("group", "Clerks")]).await;
    page.assert_contains("accountant_none has the rights of Clerks now.");
    sell("secret password").await.assert_page_error(ADMITTED);
    let foreign = admin.post("/users/9/rights", &[("group", "Agents")]).await;
    foreign.assert_contains("The permission group Agents is for users of the type reseller, not accountant");
    let page = admin.submit("/users/9/block", &[]).await;
    page.assert_contains("accountant_none is blocked.");
    page.assert_contains("Its requests are refused.");
    sell("secret password").await.assert_status_error("Bad login");
    admin.submit("/users/9/unblock", &[]).await.assert_contains("accountant_none is unblocked.");
    let fields = [("password", PASSWORD), ("repeated", PASSWORD)];
    assert_eq!(admin.post("/users/9/password", &fields).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let page = admin.submit("/users/9/password", &fields).await;
    page.assert_contains("The password of accountant_none was set.");
    page.assert_secret(PASSWORD);
    sell(PASSWORD).await.assert_page_error(ADMITTED);
    sell("secret password").await.assert_status_error("Bad login");
    admin
        .submit("/users/9/rights", &[("group", "")])
        .await
        .assert_contains("accountant_none has no permission group now.");
    console.server.assert_rows("select acc_group_id from users where id = 9", &["0"]).await;
    console
        .server
        .assert_rows(
            "select target_id, before, after from change_log where what = 'user' order by id",
            &[
                "9|{\"permission_group\": null}|{\"permission_group\": \"Clerks\"}",
                "9|{\"blocked\": 0}|{\"blocked\": 1}",
                "9|{\"blocked\": 1}|{\"blocked\": 0}",
                "9|{\"password\": \"(hidden)\", \"password_argon2\": \"(hidden)\"}|\
                 {\"password\": \"(hidden)\", \"password_argon2\": \"(hidden)\"}",
                "9|{\"permission_group\": \"Clerks\"}|{\"permission_group\": null}",
            ],
        )
        .await;
    assert_eq!(admin.get("/users/77").await.status, StatusCode::NOT_FOUND);
    assert_eq!(admin.post("/users/77/block", &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn blocked_users_of_x7_are_described_as_admitted() {
    let console = console_with_settings(&[("dialect", "x7"), ("require_password", "true")]).await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.submit("/users/9/block", &[]).await;
    page.assert_contains("the dialect x7 admits blocked users, as MOR does");
    page.assert_contains("The dialect x7 still accepts its requests");
    admin.get("/users").await.assert_contains("need the password: the setting require_password is on.");
}

#[tokio::test]
async fn last_refusals_are_those_of_the_user() {
    let console = console().await;
    let wrong = "0".repeat(40);
    console.server.get(&format!("/api/card_from_group_sell?u=Accountant&id=11&hash={wrong}")).await;
    console.server.get(&format!("/api/card_from_group_sell?u=admin&id=12&hash={wrong}")).await;
    console.server.post("card_from_group_sell", &format!("u=accountant&id=11&quantity=7&hash={wrong}")).await;
    console.server.execute("update actions set data4 = data4 || '<b>' where data2 like '%u=Accountant%'").await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.get("/users/6").await;
    page.assert_contains(
        "API : Incorrect hash 192.0.2.7 http://shop.test/api/card_from_group_sell?u=Accountant&id=11&hash=***",
    );
    page.assert_contains("hash<b>");
    page.assert_lacks("id=12");
    page.assert_contains("The audit trail does not have the user of a POST: these can be of any user.");
    page.assert_contains("http://shop.test/billing/api/card_from_group_sell u, id, quantity, hash");
    admin.get("/users/3").await.assert_contains("No refused request has this user in its URL.");
}

#[tokio::test]
async fn pasted_request_is_explained_and_not_stored() {
    let console = console().await;
    console
        .server
        .execute("insert into conflines (owner_id, name, value, value2) values (0, 'API_Secret_Key_Previous', 'the old key', '2020-01-01')")
        .await;
    let admin = console.log_in(Role::Admin).await;
    let log = LogCapture::start();
    let (correct, old, swapped) = (hash("62", "secret"), hash("62", "the old key"), hash("26", "secret"));
    let get =
        |hash: &str| format!("http://shop.test/billing/api/card_from_group_sell?u=admin&id=6&quantity=2&hash={hash}");
    for (url, body, texts) in [
        (
            get(&correct),
            String::new(),
            ["The hash is correct: the values of id, quantity and the secret key of admin.", "62<secret key>"],
        ),
        (
            get(&old),
            String::new(),
            ["The hash is wrong.", "with the previous secret key of admin, which is not valid for this user"],
        ),
        (
            "/api/card_from_group_sell".to_owned(),
            format!("u=admin&id=6&quantity=2&hash={swapped}"),
            ["The hash is wrong.", "the client hashes quantity, id instead of id, quantity"],
        ),
        (
            get("<script>alert(1)</script>"),
            String::new(),
            ["The hash is wrong: a SHA-1 has 40 hexadecimal digits.", "id, quantity"],
        ),
    ] {
        let page = admin.post("/users/hash", &[("url", &url), ("body", &body)]).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text());
        for text in texts {
            page.assert_contains(text);
        }
        // Neither a key, nor the correct hash, nor the pasted request.
        for secret in ["the old key", "reskey", correct.as_str(), old.as_str(), "shop.test", "<script>alert"] {
            page.assert_secret(secret);
        }
    }
    for (url, text) in [
        ("/api/unknown?u=admin", "There is no operation \"unknown\""),
        ("/api/card_balance_get?u=stranger<i>", "There is no user \"stranger<i>\""),
    ] {
        let page = admin.post("/users/hash", &[("url", url)]).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND);
        page.assert_contains(text);
        assert!(!page.body.contains("<i>"), "{}", page.body);
    }
    let stored = console.server.rows("select console_submissions::text from console_submissions").await.concat();
    let texts = [stored, log.text()];
    for pasted in [correct.as_str(), old.as_str(), swapped.as_str(), "quantity=2"] {
        assert!(!texts.iter().any(|text| text.contains(pasted)), "{pasted}: {texts:?}");
    }
    console.server.assert_rows("select count(*) from change_log where what <> 'console_account'", &["0"]).await;
    // Without the token of the session nothing is explained.
    let foreign = admin.post_plain("/users/hash", &[("url", &get(&correct))]).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn other_roles_see_no_users() {
    let console = console().await;
    let paths = ["/users", "/users/0", "/users/hash"];
    for client in
        [console.log_in(Role::Support).await, console.log_in(Role::ReadOnly).await, console.log_in_reseller(3).await]
    {
        for path in paths {
            assert_eq!(client.get(path).await.status, StatusCode::FORBIDDEN, "{path}");
        }
        assert_eq!(client.post_confirmed("/users/0/key", &[]).await.status, StatusCode::FORBIDDEN);
        assert_eq!(client.post("/users/9/block", &[]).await.status, StatusCode::FORBIDDEN);
    }
    console
        .server
        .assert_rows("select value from conflines where name = 'API_Secret_Key' and owner_id = 0", &["secret"])
        .await;
}
