//! `/settings`: MOR's settings, and the server's own.

use axum::http::StatusCode;
use mortise::accounts::Setting;
use mortise::config::{DEFAULTS, SECRET_SETTINGS};
use mortise::console::access::Role;

use super::{console, console_with_settings};

#[tokio::test]
async fn every_setting_is_shown_with_type_default_and_description() {
    let console =
        console_with_settings(&[("lockout_s", "77"), ("database_url", "postgres://shop:topsecret@db/shop")]).await;
    console
        .server
        .execute("insert into conflines (name, value, owner_id) values ('Email_Password', 'hunter2 hunter2', 0), ('Email_from', '<b>x@y.test</b>', 0)")
        .await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.get("/settings").await;
    for name in Setting::NAMES {
        page.assert_contains(name);
    }
    page.assert_contains("Allow_API The API accepts requests; for a reseller: with its own key");
    page.assert_contains("switch off");
    for secret in ["hunter2", ">secret<", "reskey", "topsecret"] {
        page.assert_secret(secret);
    }
    assert!(page.body.contains("value=\"&lt;b&gt;x@y.test&lt;&#x2f;b&gt;\""), "{}", page.body);
    // The server's own settings, with origin and meaning.
    page.assert_contains("lockout_s Meaning");
    page.assert_contains("77 the test");
    page.assert_contains("(hidden) the test");
    for line in DEFAULTS.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, _)) = line.split_once(" = ") {
            page.assert_contains(&format!("{name} Meaning"));
        }
    }
    let url = console.server.config.in_effect.iter().find(|setting| setting.name == SECRET_SETTINGS[0]).unwrap();
    assert!(!url.description.is_empty());
    let empty: Vec<_> =
        console.server.config.in_effect.iter().filter(|setting| setting.description.is_empty()).collect();
    assert!(empty.is_empty(), "{empty:?}");
}

#[tokio::test]
async fn setting_is_changed_at_once() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let sell = async || console.server.post_signed("card_from_group_sell", "u=admin&id=11", "11").await;
    let page = admin.submit("/settings/Allow_API", &[("owner", "0"), ("value", "off")]).await;
    page.assert_contains("Allow_API of admin is \"0\" now (it was \"1\").");
    sell().await.assert_status_error("API Requests are disabled");
    let page = admin.submit("/settings/Tax_1_Value", &[("owner", "3"), ("value", "19,5")]).await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    let page = admin.submit("/settings/Tax_1_Value", &[("owner", "3"), ("value", "1e1")]).await;
    page.assert_contains("Tax_1_Value of reseller is \"10\" now (it was \"\").");
    page.assert_contains("The settings of the reseller reseller.");
    let page = admin.submit("/settings/Email_Password", &[("owner", "0"), ("value", "hunter2 hunter2")]).await;
    page.assert_contains("Email_Password of admin is \"(hidden)\" now (it was \"(hidden)\").");
    page.assert_secret("hunter2");
    console.server.assert_rows("select value from conflines where name = 'Email_Password'", &["hunter2 hunter2"]).await;
    let name = &admin.login().name;
    console
        .server
        .assert_rows(
            "select who, target_id, target_name, before, after from change_log where what = 'setting' order by id",
            &[
                &format!("{name}|0|Allow_API|{{\"value\": \"1\"}}|{{\"value\": \"0\"}}"),
                &format!("{name}|3|Tax_1_Value|∅|{{\"value\": \"10\"}}"),
                &format!("{name}|0|Email_Password|∅|{{\"value\": \"(hidden)\"}}"),
            ],
        )
        .await;
    let stored = console.server.rows("select console_submissions::text from console_submissions").await.concat();
    assert!(!stored.contains("hunter2"), "{stored}");
}

#[tokio::test]
async fn values_of_another_type_change_nothing() {
    let console = console().await;
    let before = console.server.rows("select conflines::text from conflines order by id").await;
    let admin = console.log_in(Role::Admin).await;
    for (name, owner, value, status, text) in [
        ("Tax_1", "0", "20", 422, "Tax_1 is a name, not a number: the rate of this tax is Tax_1_Value."),
        ("Allow_API", "0", "2", 422, "Allow_API is a switch: its value is on or off."),
        ("Email_port", "0", "smtp", 422, "Email_port is a port: its value is 1 to 65535."),
        ("Email_from", "0", "a\u{200b}@x.test", 422, "Email_from cannot be used: it has the invisible character"),
        ("Email_Password", "0", "", 422, "Email_Password is empty: type the new one."),
        ("API_Secret_Key", "0", "mine", 404, "There is no setting \"API_Secret_Key\" here."),
        ("API_Secret_Key_Previous", "0", "mine", 404, "There is no setting"),
        ("Colour", "0", "blue", 404, "There is no setting \"Colour\" here."),
        ("Allow_API", "2", "on", 404, "The user with the id 2 has no settings."),
        ("Allow_API", "77", "on", 404, "The user with the id 77 has no settings."),
    ] {
        let page = admin.post(&format!("/settings/{name}"), &[("owner", owner), ("value", value)]).await;
        assert_eq!(page.status.as_u16(), status, "{name} {value}: {}", page.text());
        page.assert_contains(text);
    }
    assert_eq!(console.server.rows("select conflines::text from conflines order by id").await, before);
    console.server.assert_rows("select count(*) from change_log where what = 'setting'", &["0"]).await;
}

#[tokio::test]
async fn other_roles_see_no_settings() {
    let console = console().await;
    for client in
        [console.log_in(Role::Support).await, console.log_in(Role::ReadOnly).await, console.log_in_reseller(3).await]
    {
        assert_eq!(client.get("/settings").await.status, StatusCode::FORBIDDEN);
        let page = client.post("/settings/Allow_API", &[("owner", "3"), ("value", "off")]).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN);
    }
    console.server.assert_rows("select value from conflines where name = 'Allow_API' and owner_id = 3", &["1"]).await;
}
