//! The login: passwords, codes of the second factor, recovery codes, and the limit of wrong ones.

use mortise::console::access::Role;

use super::{Client, ConsoleServer, Login, PASSWORD, Page, code_of_step, console, current_code, current_step};
use crate::harness::log::LogCapture;

const WRONG: &str = "Name, password or code is wrong. A code can be used once: wait for the next one.";

async fn try_login(client: &Client, name: &str, password: &str, code: &str) -> Page {
    client.post_plain("/login", &[("name", name), ("password", password), ("code", code)]).await
}

async fn forget_last_step(console: &ConsoleServer) {
    console.server.execute("update console_accounts set totp_last_step = null").await;
}

/// Asserts that the login was refused: no session, no cookie.
#[track_caller]
fn assert_refused(page: &Page) {
    assert_eq!(page.status, 401, "{}", page.text());
    assert_eq!(page.header("set-cookie"), None);
    page.assert_contains(WRONG);
}

#[tokio::test]
async fn a_login_needs_the_password() {
    let console = console().await;
    let login = console.create_account(Role::Support, None, false).await;
    let client = console.client();
    for password in ["", "wrong", &PASSWORD.to_uppercase(), &format!("{PASSWORD} ")] {
        assert_refused(&try_login(&client, &login.name, password, "").await);
    }
    console.server.assert_rows("select id from console_sessions", &[]).await;
    let page = try_login(&client, &login.name.to_uppercase(), PASSWORD, "").await;
    assert_eq!((page.status.as_u16(), page.location.as_deref()), (303, Some("/dashboard")));
    let rows = "select name, client, browser, length(secret_sha256) from console_sessions s
        join console_accounts a on a.id = account_id";
    console.server.assert_rows(rows, &["support 0|192.0.2.7|A browser of the test|32"]).await;
}

/// The reply does not say which of them is wrong, and does not differ for names that do not exist.
#[tokio::test]
async fn refused_logins_look_the_same() {
    let console = console().await;
    let client = console.client();
    let (admin, blocked) = (
        console.create_account(Role::Admin, None, false).await,
        console.create_account(Role::Support, None, false).await,
    );
    console.server.execute("update console_accounts set blocked_at = now() where role = 'support'").await;
    let attempts = [
        ("no such name", PASSWORD, ""),
        (admin.name.as_str(), "a wrong password", ""),
        (&admin.name, PASSWORD, ""),
        (&admin.name, PASSWORD, "000 00"),
        (&blocked.name, PASSWORD, ""),
        // A user of the API.
        ("admin", "secret password", ""),
        ("a\0b", PASSWORD, ""),
        ("", "", ""),
    ];
    let mut bodies = Vec::new();
    for (name, password, code) in attempts {
        let page = try_login(&client, name, password, code).await;
        assert_refused(&page);
        bodies.push(page.body.replace(&format!("value=\"{name}\""), "value=\"\""));
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
    console.server.assert_rows("select id from console_sessions", &[]).await;
}

/// Codes of other steps than the neighbours of the current one are refused. The test repeats what a change of the step
/// may have disturbed.
#[tokio::test]
async fn the_clock_of_the_phone_may_differ_by_one_step() {
    let console = console().await;
    let login = console.create_account(Role::Admin, None, false).await;
    let client = console.client();
    for (offset, status) in [(-2, 401), (-1, 303), (0, 303), (1, 303), (2, 401)] {
        loop {
            forget_last_step(&console).await;
            let step = current_step();
            let page = try_login(&client, &login.name, PASSWORD, &code_of_step(offset)).await;
            if step == current_step() {
                assert_eq!(page.status, status, "{offset}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_code_is_accepted_once() {
    let console = console().await;
    let login = console.create_account(Role::Admin, None, false).await;
    let client = console.client();
    let code = current_code();
    let spaced = format!("{} {}", &code[..3], &code[3..]);
    assert_eq!(try_login(&client, &login.name, PASSWORD, &code).await.status, 303);
    assert_refused(&try_login(&client, &login.name, PASSWORD, &code).await);
    assert_refused(&try_login(&client, &login.name, PASSWORD, &spaced).await);
    // Also a code that was read before, but not used.
    let used = "update console_accounts set totp_last_step = totp_last_step + 1";
    console.server.execute(used).await;
    assert_refused(&try_login(&client, &login.name, PASSWORD, &code).await);
    forget_last_step(&console).await;
    assert_eq!(try_login(&client, &login.name, PASSWORD, &spaced).await.status, 303);
}

/// Two requests with the same code at the same time: one of them is refused.
#[tokio::test]
async fn a_code_is_accepted_once_at_the_same_time() {
    let console = console().await;
    let login = console.create_account(Role::Admin, None, false).await;
    let (client, code) = (console.client(), current_code());
    let attempt = || try_login(&client, &login.name, PASSWORD, &code);
    let (first, second, third) = tokio::join!(attempt(), attempt(), attempt());
    let mut statuses = [first, second, third].map(|page| page.status.as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [303, 401, 401]);
}

#[tokio::test]
async fn a_recovery_code_is_accepted_once() {
    let log = LogCapture::start();
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.post_confirmed("/account/recovery-codes", &[]).await;
    let codes: Vec<&str> = page.body.split("<li><code>").skip(1).map(|rest| &rest[..17]).collect();
    assert_eq!(codes.len(), 10, "{}", page.body);
    let (client, name) = (console.client(), &admin.login().name);
    assert_eq!(try_login(&client, name, PASSWORD, codes[3]).await.status, 303);
    assert_refused(&try_login(&client, name, PASSWORD, codes[3]).await);
    let typed = codes[9].to_lowercase().replace('-', " ");
    assert_eq!(try_login(&client, name, PASSWORD, &typed).await.status, 303);
    console.server.assert_rows("select count(*) from console_recovery_codes", &["8"]).await;
    // The use of each is known afterwards, but not the code.
    let changes = "select who, before, after from change_log where after ? 'recovery_codes' order by id";
    let rows = [(10, 9), (9, 8)]
        .map(|(before, after)| format!("admin 0|{{\"recovery_codes\": {before}}}|{{\"recovery_codes\": {after}}}"));
    console.server.assert_rows(changes, &rows.each_ref().map(String::as_str)).await;
    assert_eq!(log.count("a recovery code was used"), 2, "{}", log.text());
    // The database has only their hashes; new codes replace all of them.
    admin.post_confirmed("/account/recovery-codes", &[]).await;
    assert_refused(&try_login(&client, name, PASSWORD, codes[0]).await);
    // Those of another account are worth nothing.
    let page = admin.post_confirmed("/account/recovery-codes", &[]).await;
    let other = console.create_account(Role::Admin, None, false).await;
    let code = page.body.split("<li><code>").nth(1).map(|rest| &rest[..17]).unwrap();
    assert_refused(&try_login(&client, &other.name, PASSWORD, code).await);
}

async fn fail(client: &Client, login: &Login, count: usize) {
    for _ in 0..count {
        assert_refused(&try_login(client, &login.name, "a wrong password", "").await);
    }
}

/// During the lockout the correct password is refused too, for this client and this account only.
#[tokio::test]
async fn wrong_passwords_lock_the_client_out() {
    let console = console().await;
    let login = console.create_account(Role::Support, None, false).await;
    let other = console.create_account(Role::Support, None, false).await;
    let client = console.client();
    fail(&client, &login, 10).await;
    for name in [login.name.clone(), login.name.to_uppercase()] {
        let page = try_login(&client, &name, PASSWORD, "").await;
        assert_eq!(page.status, 429);
        page.assert_contains("Too many wrong passwords or codes. Try again in");
    }
    assert_eq!(try_login(&client, &other.name, PASSWORD, "").await.status, 303);
    let elsewhere = Client { address: [192, 0, 2, 8].into(), ..client };
    assert_eq!(try_login(&elsewhere, &login.name, PASSWORD, "").await.status, 303);
}

/// A name that does not exist is locked in the same way: the lockout does not tell which names exist.
#[tokio::test]
async fn unknown_names_lock_the_client_out_too() {
    let console = console().await;
    let client = console.client();
    for _ in 0..10 {
        assert_refused(&try_login(&client, "no such name", "a wrong password", "").await);
    }
    assert_eq!(try_login(&client, "no such name", "a wrong password", "").await.status, 429);
}

/// An attacker who knows the password tries codes from many addresses.
#[tokio::test]
async fn wrong_codes_from_many_addresses_lock_the_account() {
    let console = console().await;
    let login = console.create_account(Role::Admin, None, false).await;
    let client = |last| Client { address: [192, 0, 2, last].into(), ..console.client() };
    for last in 1..=10 {
        assert_refused(&try_login(&client(last), &login.name, PASSWORD, "no code").await);
    }
    assert_eq!(try_login(&client(11), &login.name, PASSWORD, &current_code()).await.status, 429);
}

/// An attacker who guesses passwords from many addresses: the account has a limit of its own, which is higher.
#[tokio::test]
async fn wrong_passwords_from_many_addresses_lock_the_account() {
    let console = console().await;
    let login = console.create_account(Role::Support, None, false).await;
    let other = console.create_account(Role::Support, None, false).await;
    let client = |network, last| Client { address: [192, 0, network, last].into(), ..console.client() };
    for last in 0..100 {
        // All spellings of the name are one account.
        let name = if last % 2 == 0 { login.name.to_uppercase() } else { login.name.clone() };
        assert_refused(&try_login(&client(2, last), &name, "a wrong password", "").await);
    }
    assert_eq!(try_login(&client(3, 1), &login.name, PASSWORD, "").await.status, 429);
    assert_eq!(try_login(&client(3, 1), &other.name, PASSWORD, "").await.status, 303);
}

/// A flood from many addresses does not make a login wait for minutes.
#[tokio::test]
async fn a_flood_of_logins_is_refused() {
    let console = console().await;
    let login = console.create_account(Role::Support, None, false).await;
    let clients: Vec<_> =
        (0..90).map(|last| Client { address: [192, 0, 2, last].into(), ..console.client() }).collect();
    let attempts = clients.iter().map(|client| try_login(client, &login.name, "a wrong password", ""));
    let pages = futures_util::future::join_all(attempts).await;
    let count = |wanted: u16| pages.iter().filter(|page| page.status == wanted).count();
    assert!(count(503) > 0 && count(401) >= 64 && count(401) + count(503) == 90, "{} {}", count(401), count(503));
    let refused = pages.iter().find(|page| page.status == 503).unwrap();
    refused.assert_contains("Too many logins at the moment. Try again in a minute.");
    refused.assert_contains("Nothing was changed.");
    assert_eq!(try_login(&clients[0], &login.name, PASSWORD, "").await.status, 303);
}

/// The limit counts every attempt, however many run at the same time.
#[tokio::test]
async fn concurrent_attempts_do_not_exceed_the_limit() {
    let console = console().await;
    let login = console.create_account(Role::Support, None, false).await;
    let client = console.client();
    let attempts = (0..25).map(|_| try_login(&client, &login.name, "a wrong password", ""));
    let statuses: Vec<u16> =
        futures_util::future::join_all(attempts).await.iter().map(|page| page.status.as_u16()).collect();
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(401), count(429)), (10, 15), "{statuses:?}");
}

/// Wrong codes of confirmed forms count as well: a stolen session cannot be used to guess.
#[tokio::test]
async fn wrong_confirmations_lock_the_account() {
    let console = console().await;
    for role in [Role::Admin, Role::Support] {
        let client = console.log_in(role).await;
        for _ in 0..10 {
            let page = client.post("/account/second-factor/new", &[("confirm", "wrong")]).await;
            assert_eq!(page.status, 422);
        }
        assert_eq!(client.post_confirmed("/account/second-factor/new", &[]).await.status, 429);
    }
}

/// The log has who logs in and from where, and no secret.
#[tokio::test]
async fn the_log_has_no_secret() {
    let log = LogCapture::start();
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let code = current_code();
    let page = admin.post_confirmed("/account/recovery-codes", &[]).await;
    let recovery_code = page.body.split("<li><code>").nth(1).map(|rest| &rest[..17]).unwrap();
    let new_password = "another password, quite long";
    let fields = [("old_password", PASSWORD), ("password", new_password), ("repeated", new_password)];
    assert_eq!(admin.post("/account/password", &fields).await.status, 303);
    // A password in the field of the name.
    let client = console.client();
    for _ in 0..11 {
        try_login(&client, "my secret passphrase", "x", "123456").await;
    }
    let text = log.text();
    assert!(text.contains("console login") && text.contains("account=\"admin 0\""), "{text}");
    assert!(text.contains("console account locked") && text.contains("an unknown account"), "{text}");
    let cookie = admin.cookie.as_deref().unwrap().split_once('=').unwrap().1;
    let form_code = format!("\"{code}\"");
    for secret in [PASSWORD, new_password, "my secret passphrase", cookie, &admin.token, &form_code, recovery_code] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// The page of a session that exists leads to the dashboard.
#[tokio::test]
async fn the_login_page_is_for_clients_without_a_session() {
    let console = console().await;
    let client = console.log_in(Role::ReadOnly).await;
    assert_eq!(client.get("/login").await.location.as_deref(), Some("/dashboard"));
    console.client().get("/login").await.assert_contains("Code of the second factor");
}
