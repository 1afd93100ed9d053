//! The set-up of the second factor: what counts before its first code, and what ends with it.

use mortise::console::access::Role;
use mortise::console::{second_factor, totp};

use super::{Client, ConsoleServer, PASSWORD, Page, console, current_code, current_step};

const NEW: &str = "/account/second-factor/new";
const SET_UP: &str = "/account/second-factor";
const WRONG: &str = "The code is wrong, or the 15 minutes are over.";

/// The code of the secret that waits for it.
async fn first_code(console: &ConsoleServer, client: &Client) -> String {
    let id = client.login().id;
    let session = format!("select totp_pending_session_id from console_accounts where id = {id}");
    let session = console.server.rows(&session).await[0].parse().unwrap();
    let mut connection = console.server.pool.acquire().await.unwrap();
    let secret = second_factor::load_pending_secret(&mut connection, id, session).await.unwrap().unwrap();
    totp::code_at(&secret, current_step()).unwrap()
}

async fn log_in(client: &Client, name: &str, code: &str) -> Page {
    client.post_plain("/login", &[("name", name), ("password", PASSWORD), ("code", code)]).await
}

/// An admin without a second factor gets one at the first login, with a code that is correct.
#[tokio::test]
async fn an_admin_sets_up_the_second_factor() {
    let console = console().await;
    let login = console.create_account_with(Role::Admin, None, false, None).await;
    let admin = console.log_in_as(&login).await;
    admin.get(SET_UP).await.assert_contains("Admins need a second factor");
    admin.post(NEW, &[("confirm", "wrong")]).await.assert_contains("The password is wrong.");
    admin.submit(NEW, &[]).await.assert_contains("Scan this code with an authenticator program");
    let secret = "select totp_pending is not null, totp_secret is null from console_accounts where name = 'admin 0'";
    console.server.assert_rows(secret, &["true|true"]).await;
    admin.post(SET_UP, &[("code", "000000")]).await.assert_contains(WRONG);
    let code = first_code(&console, &admin).await;
    let page = admin.post(SET_UP, &[("code", &code)]).await;
    assert_eq!(page.status, 200);
    page.assert_contains("They are shown only now");
    // The code counts as used, and the page shows the secret no longer.
    assert_eq!(log_in(&console.client(), &login.name, &code).await.status, 401);
    admin.get(SET_UP).await.assert_lacks("Scan this code");
    admin.get("/account").await.assert_contains("Unused recovery codes: 10.");
    let secret = "select totp_pending is null, totp_secret is not null from console_accounts where name = 'admin 0'";
    console.server.assert_rows(secret, &["true|true"]).await;
    let changes = "select who, after from change_log where what = 'console_account' order by id desc limit 2";
    let rows = [r#"admin 0|{"new_secret": true, "second_factor": true}"#, r#"admin 0|{"pending_secret": true}"#];
    console.server.assert_rows(changes, &rows).await;
}

/// Until the new phone has shown its first code, the old one and its recovery codes are demanded and accepted.
#[tokio::test]
async fn the_old_phone_counts_until_the_new_one_does() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let (client, name) = (console.client(), &admin.login().name);
    let page = admin.post_confirmed("/account/recovery-codes", &[]).await;
    let codes: Vec<&str> = page.body.split("<li><code>").skip(1).map(|rest| &rest[..17]).collect();
    admin.submit(NEW, &[]).await.assert_contains("Scan this code");
    let code = first_code(&console, &admin).await;
    // A thief of the password who hopes for a set-up that was not finished.
    for wrong in ["", &code] {
        assert_eq!(log_in(&client, name, wrong).await.status, 401, "{wrong}");
    }
    assert_eq!(log_in(&client, name, codes[0]).await.status, 303);
    let other = console.log_in_as(admin.login()).await;
    assert_eq!(other.get("/account").await.status, 200);
    // Only the session that has begun sees the secret, and can finish.
    other.get(SET_UP).await.assert_lacks("Scan this code");
    other.post(SET_UP, &[("code", &code)]).await.assert_contains(WRONG);
    let code = first_code(&console, &admin).await;
    assert_eq!(admin.post(SET_UP, &[("code", &code)]).await.status, 200);
    // Now the old phone, its recovery codes and the other sessions end.
    assert_eq!(other.get("/account").await.status, 303);
    assert_eq!(admin.get("/account").await.status, 200);
    for old in [current_code().as_str(), codes[1]] {
        assert_eq!(log_in(&client, name, old).await.status, 401, "{old}");
    }
}

#[tokio::test]
async fn a_new_secret_waits_for_15_minutes() {
    let console = console().await;
    let support = console.log_in(Role::Support).await;
    support.submit(NEW, &[]).await.assert_contains("You have 15 minutes.");
    let code = first_code(&console, &support).await;
    let age = |minutes| {
        format!("update console_accounts set totp_pending_at = now() at time zone 'utc' - interval '{minutes} minutes'")
    };
    console.server.execute(&age(14)).await;
    support.get(SET_UP).await.assert_contains("Scan this code");
    console.server.execute(&age(16)).await;
    support.get(SET_UP).await.assert_lacks("Scan this code");
    support.post(SET_UP, &[("code", &code)]).await.assert_contains(WRONG);
    console.server.assert_rows("select totp_secret is null from console_accounts", &["true"]).await;
    assert_eq!(log_in(&console.client(), &support.login().name, "").await.status, 303);
}

/// Wrong first codes count as other wrong codes do.
#[tokio::test]
async fn wrong_first_codes_lock_the_account() {
    let console = console().await;
    let support = console.log_in(Role::Support).await;
    support.submit(NEW, &[]).await.assert_contains("Scan this code");
    for _ in 0..10 {
        support.post(SET_UP, &[("code", "wrong")]).await.assert_contains(WRONG);
    }
    let code = first_code(&console, &support).await;
    assert_eq!(support.post(SET_UP, &[("code", &code)]).await.status, 429);
}
