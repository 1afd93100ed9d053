//! The login in a browser: with the second factor, by keyboard, without JavaScript, and the lockout.

use mortise::console::access::Role;

use super::{Browser, ENTER, TAB};
use crate::console::{PASSWORD, code_of_step, console, current_code};
use crate::harness::with_timeout;

#[tokio::test]
async fn an_operator_logs_in_and_out() {
    let browser = Browser::open(console().await).await;
    let login = browser.console.create_account(Role::Admin, None, false).await;
    browser.goto("/sales").await;
    browser.wait_for_path("/login").await;
    browser.fill_all(&[("name", &login.name), ("password", PASSWORD), ("code", &code_of_step(-5))]).await;
    browser.click_text("Log in").await;
    browser.assert_contains("Name, password or code is wrong.").await;
    // The page has kept the name, and no secret.
    browser.fill_all(&[("password", PASSWORD), ("code", &current_code())]).await;
    browser.click_text("Log in").await;
    // The page that was asked for.
    browser.wait_for_path("/sales").await;
    browser.goto("/account").await;
    browser.assert_contains("You are admin 0, with the role admin.").await;
    // Scripts cannot read the cookie.
    assert_eq!(browser.run("return document.cookie").await, "");
    browser.click_text("Log out").await;
    browser.wait_for_path("/login").await;
    browser.goto("/account").await;
    browser.wait_for_path("/login").await;
    browser.close().await;
}

#[tokio::test]
async fn too_many_wrong_passwords_lock_out() {
    let browser = Browser::open(console().await).await;
    let login = browser.console.create_account(Role::Support, None, false).await;
    let client = browser.console.client();
    let client = crate::console::Client { address: [127, 0, 0, 1].into(), ..client };
    for _ in 0..9 {
        client.post_plain("/login", &[("name", &login.name), ("password", "a wrong password")]).await;
    }
    for (password, message) in [
        ("a wrong password", "Name, password or code is wrong."),
        (PASSWORD, "Too many wrong passwords or codes. Try again in"),
    ] {
        browser.goto("/login").await;
        browser.fill_all(&[("name", &login.name), ("password", password)]).await;
        browser.click_text("Log in").await;
        browser.assert_contains(message).await;
    }
    browser.close().await;
}

/// Keys alone log in and find a card.
#[tokio::test]
async fn the_keyboard_is_enough() {
    let browser = Browser::open(console().await).await;
    let login = browser.console.create_account(Role::Support, None, false).await;
    browser.goto("/login").await;
    // The first tab stop is the link to the content.
    browser.type_keys(TAB).await;
    assert_eq!(browser.run("return document.activeElement.textContent").await, "Skip to the content");
    browser.type_keys(TAB).await;
    browser.type_keys(&format!("{}{TAB}", login.name)).await;
    browser.type_keys(&format!("{PASSWORD}{TAB}{TAB}{ENTER}")).await;
    browser.wait_for_path("/dashboard").await;
    // Tab until the search has the focus: it is near the beginning of each page.
    for stop in 0.. {
        assert!(stop < 5, "the search is far from the beginning of the page");
        browser.type_keys(TAB).await;
        if browser.run("return document.activeElement.id").await == "quick-search" {
            break;
        }
    }
    // The focus is visible.
    let outline = "const style = getComputedStyle(document.activeElement);
        return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";
    assert_eq!(browser.run(outline).await, true);
    browser.type_keys(&format!("1111111003{ENTER}")).await;
    browser.assert_contains("1111111003").await;
    browser.close().await;
}

/// Without JavaScript there are no copy buttons; everything else works.
#[tokio::test]
async fn scripts_are_not_needed() {
    let browser = Browser::open(console().await).await;
    let login = browser.console.create_account(Role::Support, None, false).await;
    browser.switch_scripts_off().await;
    browser.log_in_as(&login).await;
    browser.goto("/account/second-factor").await;
    browser.fill("confirm", PASSWORD).await;
    browser.click_text("Start").await;
    browser.assert_contains("Without a camera, type this key:").await;
    assert_eq!(browser.run("return document.querySelectorAll('button.copy').length").await, 0);
    browser.close().await;
}

/// With JavaScript the key has a button that copies it.
#[tokio::test]
async fn scripts_add_copy_buttons() {
    let browser = Browser::open(console().await).await;
    browser.log_in(Role::Support).await;
    browser.goto("/account/second-factor").await;
    browser.fill("confirm", PASSWORD).await;
    browser.click_text("Start").await;
    // The script runs when the page is complete.
    with_timeout("the copy button", async {
        while browser.run("return document.querySelectorAll('button.copy').length").await != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    browser.close().await;
}
