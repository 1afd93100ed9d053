//! Text of clients never runs in the operator's browser.

use mortise::console::access::Role;

use super::{Browser, ENTER};
use crate::console::console;
use crate::console::routes::{Kind, TABLE};

/// It runs if a page has it unescaped: in text, in an attribute, or as a template.
const TEXT: &str = "\"'><script>document.title='run'</script><img src=x onerror=document.title='run'>{{ 7919 * 7919 }}";

/// The columns with texts of clients, resellers and operators.
const COLUMNS: [(&str, &str); 15] = [
    ("cardgroups", "name"),
    ("cardgroups", "description"),
    ("cards", "name"),
    ("cards", "callerid"),
    ("cards", "batch_number"),
    ("cards", "serial"),
    ("users", "first_name"),
    ("users", "last_name"),
    ("payments", "reference"),
    ("payments", "description"),
    ("change_log", "target_name"),
    ("change_log", "who"),
    ("console_sessions", "browser"),
    ("email_outbox", "address"),
    ("email_outbox", "last_error"),
];

const FIND: &str = "return [document.title, document.querySelectorAll('img, [onerror], [onload], main script').length]";

#[tokio::test]
async fn text_of_clients_never_runs() {
    let browser = Browser::open(console().await).await;
    super::add_sales(&browser.console).await;
    browser.log_in(Role::Admin).await;
    for (table, column) in COLUMNS {
        // A column can be too short, or have only digits: what fits.
        let length = "select coalesce(max(character_maximum_length), 200) from information_schema.columns
            where table_schema = 'public'";
        let length = format!("{length} and table_name = '{table}' and column_name = '{column}'");
        let length = browser.console.server.rows(&length).await.remove(0);
        // Some columns are unique: one row, which the pages show.
        let only = match table {
            "cardgroups" => "where id = 6",
            "cards" => "where id = 1",
            _ => "",
        };
        let text = TEXT.replace('\'', "''");
        let update = format!("update {table} set {column} = left('{text}', {length}) {only}");
        browser.console.server.execute(&update).await;
    }
    let mut shown = String::new();
    for route in TABLE.iter().filter(|route| route.kind == Kind::Page && route.roles.is_some()) {
        browser.goto(&route.sample_path(Role::Admin)).await;
        let found = browser.run(FIND).await;
        assert!(found[0] != "run" && found[1] == 0, "{}: {found}", route.path);
        shown += &browser.text().await;
    }
    // The pages have shown it, as text.
    assert!(shown.contains("<script>document.title='run'</script>"), "no page shows the text:\n{shown}");
    assert!(!shown.contains(&(7919 * 7919).to_string()), "a text of a client was used as a template");
    browser.click("#quick-search").await;
    browser.type_keys(TEXT).await;
    browser.type_keys(ENTER).await;
    browser.wait_for_path("/search").await;
    let found = browser.run(FIND).await;
    assert!(found[0] != "run" && found[1] == 0, "{found}");
    browser.close().await;
}

/// The test above can fail: the browser reports code that the policy has stopped.
#[tokio::test]
async fn the_policy_stops_inline_code() {
    let browser = Browser::open(console().await).await;
    browser.goto("/login").await;
    browser
        .run(
            "const script = document.createElement('script');
             script.textContent = \"document.title = 'run'\";
             document.body.append(script);
             document.body.setAttribute('style', 'color: red');
             const image = document.createElement('img');
             image.src = 'https://attacker.example/x.png';
             document.body.append(image);",
        )
        .await;
    assert_ne!(browser.run("return document.title").await, "run");
    let log = browser.session.take_log().await;
    let violations = log.iter().filter(|entry| entry.message.contains("Content Security Policy")).count();
    assert!(violations >= 3, "{log:#?}");
    browser.close().await;
}
