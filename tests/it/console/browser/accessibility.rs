//! Every page with axe-core, in two sizes, light and dark; and as a picture.

use mortise::console::access::Role;
use mortise::db::seed;
use sha2::{Digest, Sha256};

use super::{Browser, ENTER, VIEWS, View};
use crate::console::routes::{Kind, TABLE};
use crate::console::{ConsoleServer, console};
use crate::harness::{postgres, server_without_jobs};

/// axe-core 4.14.1, from the package `axe-core` of npm. Its licence is beside it.
const AXE: &str = include_str!("../axe/axe.min.js");
const AXE_SHA256: &str = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c";

const RUN_AXE: &str = "
    const done = arguments[arguments.length - 1];
    axe.run(document, { resultTypes: ['violations'] }).then(
        (result) => done(result.violations.map((found) => found.id + ': ' + found.nodes.map((node) => node.html).join(' '))),
        (error) => done(['axe failed: ' + error]),
    );
";

#[test]
fn axe_is_the_released_file() {
    assert_eq!(hex::encode(Sha256::digest(AXE)), AXE_SHA256);
    assert!(include_str!("../axe/LICENSE").starts_with("Mozilla Public License, version 2.0"));
}

/// Shows a page when all of it is counted: until then it loads itself again, which would interrupt a check.
async fn open_counted(browser: &Browser, path: &str) {
    browser.goto(path).await;
    while browser.text().await.contains("is being counted") {
        browser.goto(path).await;
    }
}

/// Checks the page that is shown, and stores it as pictures.
async fn check_page(browser: &Browser, name: &str, findings: &mut Vec<String>) {
    browser.run(AXE).await;
    for view in VIEWS {
        browser.set_view(view).await;
        let found = browser.run_async(RUN_AXE).await;
        let found = found.as_array().unwrap().iter().map(|found| found.as_str().unwrap());
        findings.extend(found.map(|found| format!("{name} {} {}: {found}", view.width, view.colours)));
        // A page that is wider than the screen must be scrolled in two directions.
        let is_wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
        if browser.run(is_wide).await == true {
            findings.push(format!("{name} {} {}: wider than the screen", view.width, view.colours));
        }
        browser.take_screenshot(&format!("{name}-{}-{}", view.width, view.colours)).await;
    }
    if browser.run("return document.querySelectorAll('h1').length").await != 1 {
        findings.push(format!("{name}: not one h1"));
    }
    browser.assert_policy_held().await;
}

#[tokio::test]
async fn pages_have_no_faults_of_accessibility() {
    let browser = Browser::open(console().await).await;
    super::add_sales(&browser.console).await;
    let mut findings = Vec::new();
    browser.goto("/login").await;
    check_page(&browser, "login", &mut findings).await;
    browser.goto("/demo?key=wrong").await;
    check_page(&browser, "demo", &mut findings).await;
    browser.log_in(Role::Admin).await;
    for route in TABLE.iter().filter(|route| route.kind == Kind::Page && route.roles.is_some()) {
        let path = route.sample_path(Role::Admin);
        open_counted(&browser, &path).await;
        // All actions of the page are shown.
        browser.run("for (const details of document.querySelectorAll('details')) details.open = true").await;
        check_page(&browser, route.path.trim_matches('/').replace(['/', '{', '}'], "-").as_str(), &mut findings).await;
    }
    browser.goto("/no-such-page").await;
    check_page(&browser, "error", &mut findings).await;
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    browser.close().await;
}

/// The pages that answer a form: results, secrets that are shown once, and refusals.
#[tokio::test]
async fn pages_that_follow_a_form_have_no_faults_of_accessibility() {
    let browser = Browser::open(console().await).await;
    super::add_sales(&browser.console).await;
    browser.log_in(Role::Admin).await;
    browser.console.server.execute("update cards set serial = 'S1' where id in (2, 3)").await;
    browser.console.server.execute("update console_accounts set can_reveal_pins = true").await;
    let directory = tempfile::tempdir().unwrap();
    let [cards, payments] = ["cards.csv", "payments.csv"].map(|name| directory.path().join(name));
    std::fs::write(&cards, "number,pin,balance\n1111111001,5001,12.5\n5555555002,,12.5\n").unwrap();
    std::fs::write(&payments, "reference,amount,currency\nX9,1,USD\n").unwrap();
    let mut findings = Vec::new();

    browser.click("#quick-search").await;
    browser.type_keys(&format!("S1{ENTER}")).await;
    browser.assert_contains("1111111001").await;
    check_page(&browser, "found-cards", &mut findings).await;

    browser.goto("/cards/2").await;
    browser.click_text("Show the PIN").await;
    browser.fill_open_code().await;
    browser.click("details[open] button.danger").await;
    browser.wait_for_path("/cards/2/pin").await;
    check_page(&browser, "card-pin", &mut findings).await;

    browser.goto("/account").await;
    browser.click_text("Replace the recovery codes").await;
    browser.fill_open_code().await;
    browser.click_text("Replace the codes").await;
    browser.wait_for_path("/account/recovery-codes").await;
    check_page(&browser, "recovery-codes", &mut findings).await;

    browser.goto("/users").await;
    browser.click_text("Create a reseller that can sell at once").await;
    browser.fill_open("name", "new shop").await;
    browser.fill_open_code().await;
    browser.click_text("Create the reseller").await;
    browser.wait_for_path("/users/resellers").await;
    check_page(&browser, "secrets", &mut findings).await;

    browser.goto("/users/hash").await;
    browser.fill("url", "http://shop.test/billing/api/card_from_group_sell?u=accountant&id=6&hash=00").await;
    browser.click_text("Explain").await;
    browser.assert_contains("Result").await;
    check_page(&browser, "hash-explained", &mut findings).await;

    browser.goto("/batches/import").await;
    browser.choose("group", "6").await;
    browser.click("input[value='check']").await;
    browser.choose_file("file", &cards).await;
    browser.click_text("Send the file").await;
    browser.assert_contains("number: a card has it already").await;
    check_page(&browser, "refused-import", &mut findings).await;

    browser.goto("/sales/reconciliation").await;
    browser.choose_file("file", &payments).await;
    browser.click_text("Compare").await;
    browser.assert_contains("The list and the payments differ.").await;
    check_page(&browser, "compared-list", &mut findings).await;

    browser.goto("/groups/6/edit").await;
    browser.set_value("name", "hidden").await;
    browser.click_text("Save").await;
    browser.assert_contains("Name: another group has it.").await;
    check_page(&browser, "refused-group", &mut findings).await;
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    browser.close().await;
}

/// The check fails for a page with a fault.
#[tokio::test]
async fn a_fault_is_found() {
    let browser = Browser::open(console().await).await;
    browser.goto("/login").await;
    browser.run("document.querySelector('label').remove()").await;
    let mut findings = Vec::new();
    check_page(&browser, "broken", &mut findings).await;
    assert!(findings.len() >= 4 && findings[0].contains("label"), "{findings:?}");
    browser.close().await;
}

/// The pictures of docs/console.md, which `scripts/screenshots` copies.
#[tokio::test]
async fn pictures_for_the_documents() {
    let database = postgres::create_database("").await;
    let server = server_without_jobs(&database, &[]).await;
    assert!(seed::seed_if_empty(&server.pool, true, async |_| Ok(())).await.unwrap());
    let card = server.rows("select min(user_id) from payments where kind = 'reissue'").await.concat();
    let browser = Browser::open(ConsoleServer::new(server)).await;
    browser.log_in(Role::Admin).await;
    for (path, colours) in [("/dashboard".to_owned(), "light"), (format!("/cards/{card}"), "dark")] {
        browser.set_view(View { width: 860, height: 560, colours }).await;
        open_counted(&browser, &path).await;
        let picture = browser.take_screenshot(&format!("docs-{colours}")).await;
        assert!(std::fs::metadata(picture).unwrap().len() < 80_000, "{colours}");
    }
    browser.close().await;
}
