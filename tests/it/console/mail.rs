//! `/mail`: the outbox.

use axum::http::StatusCode;
use mortise::console::access::Role;

use super::{ConsoleServer, console, console_with_settings, random_id};
use crate::harness::smtp::MailServer;
use crate::harness::with_timeout;
use crate::mail::settings_sql;

/// Three e-mails, about cards with recognizable PINs. The next attempt of the first one is far away.
const MAILS: &str = "
    update cards set pin = '98765430' || id where id in (1, 2, 3);
    insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, next_attempt_at, last_error, attempts)
    values (0, 0, 'slow@x.test', 'a', '{1}', '{10}', 'USD', '2100-01-01', '450 greylisted', 3);
    insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, failed_at, last_error, attempts)
    values (0, 0, '<script>alert(1)</script>', 'b', '{2}', '{10}', 'USD', now(), '550 <b>unknown</b> user', 1);
    insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, sent_at)
    values (3, 3, 'done@x.test', 'c', '{3}', '{10}', 'USD', now())";

async fn office() -> (ConsoleServer, MailServer) {
    let console = console_with_settings(&[("mail_tls", "off")]).await;
    let mail = MailServer::start().await;
    console.server.execute(&settings_sql(0, mail.address.port(), "Card Shop <shop@example.com>")).await;
    console.server.execute(MAILS).await;
    (console, mail)
}

#[tokio::test]
async fn mails_are_listed_by_state_without_pins() {
    let (console, _mail) = office().await;
    let support = console.log_in(Role::Support).await;
    let waiting = support.get("/mail").await;
    waiting.assert_contains("slow@x.test admin 1");
    waiting.assert_contains("2100-01-01 00:00:00 450 greylisted");
    waiting.assert_lacks("done@x.test");
    let failed = support.get("/mail?state=failed").await;
    failed.assert_contains("<script>alert(1)</script>");
    failed.assert_contains("550 <b>unknown</b> user");
    assert!(!failed.body.contains("<script>alert"), "{}", failed.body);
    let sent = support.get("/mail?state=sent").await;
    sent.assert_contains("done@x.test reseller 1");
    for page in [waiting, failed, sent] {
        page.assert_secret("9876543");
    }
    let reader = console.log_in(Role::ReadOnly).await;
    let page = reader.get("/mail").await;
    page.assert_contains("slow@x.test");
    page.assert_lacks("Send a test e-mail");
    page.assert_lacks("Send now");
}

#[tokio::test]
async fn long_lists_have_pages() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at,
                 next_attempt_at, failed_at)
             select 0, 0, state || i || '@x.test', state || i, '{1}', '{1}', 'USD', now() + make_interval(secs => i / 3), '2100-01-01',
                 case state when 'failed' then now() + make_interval(secs => i / 3) end
             from generate_series(101, 220) i, unnest(array['waiting', 'failed']) state",
        )
        .await;
    let support = console.log_in(Role::Support).await;
    for (state, order) in [("waiting", (101..=220).collect::<Vec<_>>()), ("failed", (101..=220).rev().collect())] {
        let mut path = format!("/mail?state={state}");
        let mut found = Vec::new();
        for rows in [50, 50, 20] {
            let page = support.get(&path).await;
            let text = page.text();
            let numbers =
                text.split(state).skip(1).filter_map(|rest| rest.split_once("@x.test")?.0.parse::<u32>().ok());
            let numbers: Vec<u32> = numbers.collect();
            assert_eq!(numbers.len(), rows, "{text}");
            found.extend(numbers);
            let next = page.body.split("&amp;after=").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            assert_eq!(next.is_some(), rows == 50);
            path = format!("/mail?state={state}&after={}", next.unwrap_or_default());
        }
        assert_eq!(found, order);
    }
}

#[tokio::test]
async fn mails_are_sent_again() {
    let (console, mail) = office().await;
    let support = console.log_in(Role::Support).await;
    let page = support.submit("/mail/1/retry", &[]).await;
    page.assert_contains("The server sends the e-mail 1 within a second.");
    let mails = with_timeout("the e-mail", mail.wait_for_mails(1)).await;
    assert_eq!(mails[0].to, "slow@x.test");
    console
        .server
        .wait_for_rows("select from email_outbox where id = 1 and sent_at is not null", |rows| !rows.is_empty())
        .await;
    let sent = support.post("/mail/1/retry", &[]).await;
    assert_eq!(sent.status, StatusCode::UNPROCESSABLE_ENTITY);
    sent.assert_contains("The e-mail 1 was sent.");
    sent.assert_lacks("--again");
    assert_eq!(support.post("/mail/99/retry", &[]).await.status, StatusCode::NOT_FOUND);
    console.server.execute("update email_outbox set sent_at = null where id = 1").await;
    let page = support.submit("/mail/retry", &[("state", "waiting")]).await;
    page.assert_contains("E-mails to send now: 1.");
    with_timeout("the same e-mail", mail.wait_for_mails(2)).await;
    let name = &support.login().name;
    console
        .server
        .assert_rows(
            "select who, what, target_name, after from change_log where what = 'mail' order by id",
            &[
                &format!("{name}|mail|outbox|{{\"ids\": [1], \"retried\": 1}}"),
                &format!("{name}|mail|outbox|{{\"retried\": 1}}"),
            ],
        )
        .await;
    let all_sent = support.post("/mail/retry", &[("state", "sent")]).await;
    assert_eq!(all_sent.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn address_is_corrected_once() {
    let (console, mail) = office().await;
    let support = console.log_in_with_pins(Role::Support).await;
    let wrong = support.post("/mail/2/correct", &[("address", "still wrong")]).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    console.server.assert_rows("select count(*) from change_log where what = 'mail'", &["0"]).await;
    let page = support.submit("/mail/2/correct", &[("address", " buyer@x.test ")]).await;
    page.assert_contains("The e-mail 2 is sent to buyer@x.test now (it was for <script>alert(1)</script>).");
    let mails = with_timeout("the e-mail", mail.wait_for_mails(1)).await;
    assert_eq!(mails[0].to, "buyer@x.test");
    console
        .server
        .assert_rows(
            "select target_id, target_name, before, after from change_log where what = 'mail'",
            &["2|buyer@x.test|{\"address\": \"<script>alert(1)</script>\"}|{\"address\": \"buyer@x.test\"}"],
        )
        .await;
    console
        .server
        .wait_for_rows("select from email_outbox where id = 2 and sent_at is not null", |rows| !rows.is_empty())
        .await;
    let sent = support.post("/mail/2/correct", &[("address", "other@x.test")]).await;
    sent.assert_contains("was sent to buyer@x.test: it stays as it is");
}

#[tokio::test]
async fn test_mail_is_sent_once() {
    let (console, mail) = office().await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.submit("/mail/test", &[("address", "me@x.test"), ("owner", "")]).await;
    page.assert_contains("accepted the test e-mail from Card Shop <shop@example.com> to me@x.test.");
    let mails = mail.wait_for_mails(1).await;
    assert_eq!(mails[0].to, "me@x.test");
    for (fields, text) in [
        ([("address", "nowhere"), ("owner", "")], "is not an e-mail address."),
        ([("address", "me@x.test"), ("owner", "unknown")], "There is no user \"unknown\"."),
        ([("address", "me@x.test"), ("owner", "customer")], "The user customer has no settings"),
    ] {
        let page = admin.post("/mail/test", &fields).await;
        assert!(page.status.is_client_error(), "{fields:?}");
        page.assert_contains(text);
    }
    let support = console.log_in(Role::Support).await;
    assert!(!support.get("/mail").await.body.contains("href=\"/settings"));
    // A double click.
    let once = random_id();
    let fields = [("token", support.token.as_str()), ("once", &once), ("address", "you@x.test")];
    let (first, second) =
        tokio::join!(support.post_plain("/mail/test", &fields), support.post_plain("/mail/test", &fields));
    assert_eq!((first.status, second.status), (StatusCode::SEE_OTHER, StatusCode::SEE_OTHER));
    assert_eq!(first.location, second.location);
    support.get(first.location.as_deref().unwrap()).await.assert_contains("accepted the test e-mail from Card Shop");
    assert_eq!(mail.wait_for_mails(2).await[1].to, "you@x.test");
    // The id of another account's form sends nothing.
    let fields = [("token", admin.token.as_str()), ("once", &once), ("address", "they@x.test")];
    assert_eq!(admin.post_plain("/mail/test", &fields).await.status, StatusCode::FORBIDDEN);
    let reader = console.log_in(Role::ReadOnly).await;
    assert_eq!(reader.post("/mail/1/retry", &[]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(console.log_in_reseller(3).await.get("/mail").await.status, StatusCode::FORBIDDEN);
    assert_eq!(mail.received_mails().len(), 2);
}

/// With fresh statistics and without, a page of a long outbox reads an index in its order, or the few rows that wait.
#[tokio::test]
async fn lists_use_indexes() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, sent_at, failed_at)
             select 0, 0, 'a', i, '{1}', '{1}', 'USD', now() + make_interval(secs => i),
                 case when i % 9 > 0 then now() + make_interval(secs => i) end,
                 case when i % 9 = 0 then now() + make_interval(secs => i) end
             from generate_series(1, 20000) i",
        )
        .await;
    for is_analyzed in [false, true] {
        if is_analyzed {
            console.server.execute("analyze email_outbox").await;
        }
        for (part, values, index) in [
            ("'waiting' as \"state!\"", &["null", "null", "51"][..], "using email_outbox_pending on email_outbox"),
            (
                "'sent' as \"state!\"",
                &["'2030-01-01'", "17", "51"],
                "Scan Backward using email_outbox_finished on email_outbox",
            ),
            (
                "'failed' as \"state!\"",
                &["'2030-01-01'", "17", "51"],
                "Scan Backward using email_outbox_failed on email_outbox",
            ),
            ("actions", &["7", "500"], "Scan Backward using actions_refusals on actions"),
        ] {
            let parts: &[&str] = if part == "actions" { &["as \"parameters!\"", "from actions"] } else { &[part] };
            let plan = console.server.query_plan(parts, "force_custom_plan", values).await;
            assert!(plan.contains(index), "{index}: {plan}");
            assert!(!plan.contains("Seq Scan on email_outbox") && !plan.contains("Seq Scan on actions"), "{plan}");
        }
    }
}

/// An e-mail has PINs: an account that may not see them does not send them to another address.
#[tokio::test]
async fn the_address_is_corrected_by_accounts_that_may_see_pins() {
    let (console, _mail) = office().await;
    let address = "select address from email_outbox order by id";
    let rows = ["slow@x.test", "<script>alert(1)</script>", "done@x.test"];
    let support = console.log_in(Role::Support).await;
    let page = support.get("/mail?state=failed").await;
    page.assert_contains("Send now");
    page.assert_lacks("Correct the address");
    for id in [1, 2] {
        let page = support.post(&format!("/mail/{id}/correct"), &[("address", "own@x.test")]).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        page.assert_contains("your account may not show PINs");
    }
    console.server.assert_rows(address, &rows).await;
    // An e-mail that a buyer has got keeps its address, also while it is to be sent again.
    let admin = console.log_in(Role::Admin).await;
    admin.get("/mail?state=failed").await.assert_contains("Correct the address");
    console
        .server
        .execute(
            "update email_outbox set claimed_until = '2100-01-01', sent_at = null, first_sent_at = now() where id = 3;
             update email_outbox set sent_at = now() where id = 1",
        )
        .await;
    for id in [1, 3] {
        let page = admin.post(&format!("/mail/{id}/correct"), &[("address", "own@x.test")]).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
        page.assert_contains("x.test: it stays as it is");
    }
    console.server.assert_rows(address, &rows).await;
}
