//! Tasks done with a mouse, without JavaScript, and with the keyboard alone, then checked in the database.

use mortise::console::access::Role;

use super::{Browser, ENTER, Means, add_sales};
use crate::console::console;

/// Searches a card by its number and opens its page.
async fn open_card(browser: &Browser, number: &str) {
    browser.focus("#quick-search").await;
    browser.type_keys(&format!("{number}{ENTER}")).await;
    browser.wait_for_path("/cards/").await;
}

async fn void_card(browser: &Browser) {
    open_card(browser, "1111111001").await;
    browser.click_text("Void: undo the sale").await;
    browser.click("details[open] input[value='full']").await;
    browser.fill_open("reason", "bought twice").await;
    browser.fill_open_code().await;
    browser.click_text("Void the card").await;
    browser.assert_contains("The card is void.").await;
    let card = "select balance = 0, retired_at is not null from cards where id = 2";
    browser.console.server.assert_rows(card, &["true|true"]).await;
    let payments =
        "select kind, amount < 0, reverses is not null from payments where card = 1 and user_id = 2 order by id";
    browser.console.server.assert_rows(payments, &["sale|false|false", "refund|true|true"]).await;
    let changes = "select who from change_log where what = 'card' order by id desc limit 1";
    let who = browser.console.server.rows(changes).await;
    assert!(who[0].contains("admin 0"), "{who:?}");
}

async fn replace_card(browser: &Browser) {
    open_card(browser, "1111111002").await;
    browser.click_text("Replace the card").await;
    browser.fill_open("reason", "the PIN was published").await;
    browser.fill_open("to", "1111111003").await;
    browser.fill_open_code().await;
    browser.click("details[open] button.danger").await;
    browser.wait_for_path("/cards/1").await;
    let cards = "select id, balance > 0, retired_at is not null from cards where id in (1, 3) order by id";
    browser.console.server.assert_rows(cards, &["1|true|false", "3|false|true"]).await;
}

async fn import_cards(browser: &Browser) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cards.csv");
    std::fs::write(&file, "number,pin,balance\n5555555001,5001,12.5\n5555555002,5002,12.5\n").unwrap();
    let cards = "select number, pin, balance = 12.5, sold from cards where number like '5555555%' order by number";
    browser.goto("/batches/import").await;
    for (mode, message) in [("check", "Nothing was written yet."), ("import", "2 cards were imported.")] {
        if mode == "check" {
            browser.choose("group", "6").await;
        }
        browser.click(&format!("input[value='{mode}']")).await;
        browser.choose_file("file", &file).await;
        browser.console.server.assert_rows(cards, &[]).await;
        browser.click_text("Send the file").await;
        browser.assert_contains(message).await;
    }
    browser.console.server.assert_rows(cards, &["5555555001|5001|true|0", "5555555002|5002|true|0"]).await;
}

async fn compare_list(browser: &Browser) {
    browser.console.server.execute("update payments set reference = 'R' || id").await;
    let listed =
        browser.console.server.rows("select reference, amount + tax, currency from payments order by id").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list.csv");
    let list = format!("reference,amount,currency\n{}\nX9,1,USD\n", listed[0].replace('|', ","));
    std::fs::write(&file, list).unwrap();
    browser.goto("/sales/reconciliation").await;
    browser.choose_file("file", &file).await;
    let today = browser.console.server.rows("select to_char(now() at time zone 'utc', 'YYYY-MM-DD')").await.remove(0);
    browser.set_value("from", &today).await;
    browser.set_value("to", &today).await;
    browser.click_text("Compare").await;
    browser.assert_contains("The list and the payments differ.").await;
    browser.assert_contains("Matched 1 Missing here 1 Missing in the list 1 Different amounts 0").await;
    let payments = "select count(*) from payments where kind = 'sale'";
    browser.console.server.assert_rows(payments, &["2"]).await;
}

async fn block_card(browser: &Browser) {
    open_card(browser, "1111111003").await;
    browser.click_text("Block").await;
    browser.fill_open("reason", "the PIN was published").await;
    browser.click_text("Block the card").await;
    browser.assert_contains("The card is blocked").await;
    browser.console.server.assert_rows("select withheld from cards where id = 1", &["blocked"]).await;
}

async fn correct_mail(browser: &Browser) {
    browser.goto("/mail?state=failed").await;
    browser.click_text("Correct the address").await;
    browser.fill_open("address", "anna@shop.test").await;
    browser.click("details[open] button").await;
    browser.assert_contains("is sent to anna@shop.test now").await;
    browser.console.server.assert_rows("select address from email_outbox", &["anna@shop.test"]).await;
}

/// Does all tasks, one after the other.
async fn do_tasks(means: Means) {
    let browser = Browser::open_with(console().await, means).await;
    add_sales(&browser.console).await;
    browser.log_in(Role::Admin).await;
    compare_list(&browser).await;
    correct_mail(&browser).await;
    void_card(&browser).await;
    replace_card(&browser).await;
    block_card(&browser).await;
    import_cards(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn tasks_are_done_with_a_mouse() {
    do_tasks(Means::Mouse).await;
}

#[tokio::test]
async fn tasks_are_done_without_scripts() {
    do_tasks(Means::MouseWithoutScripts).await;
}

#[tokio::test]
async fn tasks_are_done_with_the_keyboard_alone() {
    do_tasks(Means::Keyboard).await;
}
