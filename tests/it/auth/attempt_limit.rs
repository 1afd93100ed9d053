//! Wrong hashes, passwords and PINs are counted, and too many of them end in a pause (`reliability.md`).

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use mortise::auth::attempt_limiter::{AttemptKind, AttemptLimiter};
use mortise::error::ApiError;

use crate::harness::{Reply, Server, hash, server_with_settings};

const SELL: &str = "card_from_group_sell";
const PATIENT: &[(&str, &str)] = &[("failed_attempts_max", "3"), ("lockout_s", "3600")];

fn patient(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [PATIENT, more].concat()
}

/// A purchase from an empty group, by way of an address.
async fn ask(server: &Server, from: &str, form: &str, key: &str) -> Reply {
    let request = Request::post(format!("/billing/api/{SELL}")).header("x-forwarded-for", from);
    let form = format!("{form}&id=11&hash={}", hash("11", key));
    server.send(request.header("content-type", "application/x-www-form-urlencoded").body(Body::from(form))).await
}

#[track_caller]
fn is_paused(reply: &Reply) {
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS, "{}", reply.body);
    reply.assert_status_error("Too many wrong attempts");
    let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&seconds), "{seconds}");
}

/// The tests' own peer is a proxy here.
const PROXY: (&str, &str) = ("trusted_proxies", "192.0.2.7");

#[tokio::test]
async fn after_too_many_wrong_hashes_the_pair_waits_and_nobody_else_does() {
    let server = server_with_settings(&patient(&[PROXY])).await;
    for _ in 0..3 {
        ask(&server, "198.51.100.1", "u=admin", "wrong").await.assert_status_error("Incorrect hash");
    }
    // Under whatever spelling, for wrong and right alike: the pause must not tell which it was.
    for form in ["u=admin", "u=ADMIN", "u=Admin++"] {
        is_paused(&ask(&server, "198.51.100.1", form, "wrong").await);
        is_paused(&ask(&server, "198.51.100.1", form, "secret").await);
    }
    ask(&server, "198.51.100.1", "u=accountant", "secret").await.assert_page_error("Free cards was not found");
    ask(&server, "198.51.100.2", "u=admin", "secret").await.assert_page_error("Free cards was not found");
    // A pause leaves nothing to write.
    server.assert_rows("select data3 from actions", &["198.51.100.1"; 3]).await;
}

#[tokio::test]
async fn wrong_passwords_count_and_unknown_names_no_less() {
    let server = server_with_settings(&patient(&[PROXY])).await;
    for form in ["u=admin&p=wrong", "u=nobody", "u=nobody2&p=wrong"] {
        for _ in 0..3 {
            ask(&server, "198.51.100.1", form, "secret").await.assert_status_error("Bad login");
        }
        is_paused(&ask(&server, "198.51.100.1", form, "secret").await);
    }
    is_paused(&ask(&server, "198.51.100.1", "u=admin&p=secret+password", "secret").await);
    ask(&server, "198.51.100.2", "u=admin&p=secret+password", "secret")
        .await
        .assert_page_error("Free cards was not found");
}

/// Right requests neither count nor make the wrong ones forgotten.
#[tokio::test]
async fn only_wrong_guesses_count() {
    let server = server_with_settings(PATIENT).await;
    for _ in 0..2 {
        server.post_signed(SELL, "u=admin&id=11&p=wrong", "11").await.assert_status_error("Bad login");
    }
    for _ in 0..5 {
        server.post_signed(SELL, "u=admin&id=11", "11").await.assert_page_error("Free cards was not found");
        server.post_signed(SELL, "u=user&id=11", "11").await.assert_status_error("Access Denied");
    }
    server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    is_paused(&server.post_signed(SELL, "u=admin&id=11", "11").await);
    server.execute("update conflines set value = '' where name = 'API_Secret_Key'").await;
    for _ in 0..5 {
        server.post(SELL, "u=accountant&id=11").await.assert_status_error("API must have Secret Key");
    }
}

/// Not strict: an unknown user is refused in the operation's own words, and counted all the same.
#[tokio::test]
async fn every_operation_counts() {
    let server = server_with_settings(PATIENT).await;
    server.post("card_balance_get", "u=nobody&number=1").await;
    server.post("cc_groups_get", "u=nobody").await;
    server.post("tariff_wholesale_update", "u=nobody").await;
    is_paused(&server.post("card_payment_add", "u=nobody").await);
}

#[tokio::test]
async fn nothing_is_counted_where_it_is_switched_off() {
    let server = server_with_settings(&[("failed_attempts_max", "0")]).await;
    for _ in 0..150 {
        server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    }
}

#[tokio::test]
async fn by_default_a_clumsy_client_is_borne_with() {
    // Five hundred within the default minute is much for a busy machine.
    let server = server_with_settings(&[("lockout_s", "3600")]).await;
    for _ in 0..500 {
        server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    }
    is_paused(&server.post_signed(SELL, "u=admin&id=11", "11").await);
}

/// Guessing is refused without the database, as fast as can be.
#[tokio::test]
async fn a_pause_asks_the_database_nothing() {
    let server = server_with_settings(PATIENT).await;
    for _ in 0..3 {
        server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    }
    server.close().await;
    is_paused(&server.post_signed(SELL, "u=admin&id=11", "11").await);
    assert_eq!(server.post(SELL, "u=accountant&id=11").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// However many come at once, no more are looked at than the setting says.
#[tokio::test]
async fn guesses_that_arrive_together_are_no_more() {
    for (form, hashed) in [("u=admin&id=11&hash=wrong", ""), ("u=admin&id=11&p=wrong&hash=", "11")] {
        let server = server_with_settings(&patient(&[("database_connections", "8")])).await;
        // From now on a password takes long to check.
        server
            .post_signed(SELL, "u=admin&id=11&p=secret+password", "11")
            .await
            .assert_page_error("Free cards was not found");
        let form = if hashed.is_empty() { form.to_owned() } else { form.to_owned() + &hash(hashed, "secret") };
        let asked = (0..40).map(|_| server.post(SELL, &form));
        let replies = futures_util::future::join_all(asked).await;
        let looked_at = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
        // Two passwords are checked at once: one more may have begun.
        assert!((3..=4).contains(&looked_at), "{looked_at}");
    }
}

/// Whoever types PINs into a shop's form stops nothing but PINs.
#[tokio::test]
async fn pins_that_no_card_has_are_counted_by_themselves() {
    for (dialect, words) in [("documented", "Card was not found"), ("x7", "PIN number not found")] {
        let server = server_with_settings(&patient(&[("dialect", dialect)])).await;
        let by_pin = async |pin: &str| {
            let form = format!("u=admin&pin={pin}&callerid=555");
            server.post_signed("card_by_cli_update", &form, &format!("{pin}555")).await
        };
        for pin in ["5551", "5552", "5553"] {
            assert_eq!(by_pin(pin).await.element_texts("error").concat(), words);
        }
        is_paused(&by_pin("5554").await);
        is_paused(&by_pin("0042").await);
        server.post_signed(SELL, "u=admin&id=11", "11").await.assert_page_error("Free cards was not found");
        let reply =
            server.post_signed("card_by_cli_update", "u=admin&callerid=555&amount=1&cardgroup_id=6", "15556").await;
        assert_eq!(reply.element_texts("status").len(), 1, "{}", reply.body);
        assert_eq!(reply.element_texts("callerid"), ["555"]);
    }
}

#[tokio::test]
async fn pins_that_arrive_together_are_no_more() {
    let server = server_with_settings(&patient(&[("database_connections", "2")])).await;
    let asked = (0..40).map(async |caller| {
        let (form, hashed) = (format!("u=admin&pin=5551&callerid={caller}"), format!("5551{caller}"));
        server.post_signed("card_by_cli_update", &form, &hashed).await
    });
    let replies = futures_util::future::join_all(asked).await;
    let looked_at = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
    // There are three connections, the one for changes among them: two more may be at it when the last one turns out wrong.
    assert!((3..=5).contains(&looked_at), "{looked_at}");
}

/// A reply that is kept for an idempotency key is no guess.
#[tokio::test]
async fn a_pin_that_is_sent_again_counts_once() {
    let server = server_with_settings(PATIENT).await;
    let form = "u=admin&pin=5551&callerid=555&request_id=k";
    let first = server.post_signed("card_by_cli_update", form, "5551555").await;
    for _ in 0..5 {
        assert_eq!(server.post_signed("card_by_cli_update", form, "5551555").await.body, first.body);
    }
    let reply = server.post_signed("card_by_cli_update", "u=admin&pin=5552&callerid=555", "5552555").await;
    assert_eq!(reply.status, StatusCode::OK);
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The database takes some letters for others; whoever uses them has no more guesses.
#[test]
fn no_spelling_of_a_name_counts_for_itself() {
    let guessing = AttemptLimiter::new(2, NonZero::new(60).unwrap());
    let (client, now) = (address("192.0.2.1"), Instant::now());
    guessing.record_failure(AttemptKind::Login, client, "ADMIN ", || now);
    assert!(guessing.record_failure(AttemptKind::Login, client, "adm\u{130}n", || now));
    assert_eq!(guessing.check(AttemptKind::Login, client, "admin", || now), Err(ApiError::TooManyAttempts(60)));
}

#[test]
fn a_pause_ends() {
    let guessing = AttemptLimiter::new(2, NonZero::new(60).unwrap());
    let (client, now) = (address("192.0.2.1"), Instant::now());
    let later = |seconds: u64| now + Duration::from_secs(seconds);
    let check = |seconds| guessing.check(AttemptKind::Login, client, "admin", || later(seconds));
    assert!(!guessing.record_failure(AttemptKind::Login, client, "admin", || now));
    // Wrong ones that lie further apart than the pause aren't counted together.
    assert!(!guessing.record_failure(AttemptKind::Login, client, "admin", || later(61)));
    assert_eq!(check(61), Ok(()));
    assert!(guessing.record_failure(AttemptKind::Login, client, "admin", || later(100)));
    assert_eq!(check(101), Err(ApiError::TooManyAttempts(59)));
    assert_eq!(check(159), Err(ApiError::TooManyAttempts(1)));
    assert_eq!(check(161), Ok(()));
    // As at the beginning.
    assert!(!guessing.record_failure(AttemptKind::Login, client, "admin", || later(161)));
    assert_eq!(check(161), Ok(()));
}

#[test]
fn a_network_of_ipv6_is_one_client() {
    let guessing = AttemptLimiter::new(2, NonZero::new(60).unwrap());
    let now = Instant::now();
    guessing.record_failure(AttemptKind::Login, address("2001:db8:0:1::1"), "admin", || now);
    guessing.record_failure(AttemptKind::Login, address("2001:db8:0:1:ffff::2"), "admin", || now);
    assert!(guessing.check(AttemptKind::Login, address("2001:db8:0:1::3"), "admin", || now).is_err());
    assert!(guessing.check(AttemptKind::Login, address("2001:db8:0:2::1"), "admin", || now).is_ok());
}

/// Names and addresses without end: memory doesn't grow, and whoever is refused stays so.
#[test]
fn a_flood_of_invented_names_frees_nobody() {
    let guessing = AttemptLimiter::new(3, NonZero::new(60).unwrap());
    let (client, now) = (address("192.0.2.1"), Instant::now());
    for _ in 0..3 {
        guessing.record_failure(AttemptKind::Login, client, "admin", || now);
    }
    let size = format!("{guessing:?}").matches("mark").count();
    for name in 0..200_000 {
        guessing.record_failure(AttemptKind::Login, client, &name.to_string(), || now);
    }
    assert!(guessing.check(AttemptKind::Login, client, "admin", || now).is_err());
    assert_eq!(format!("{guessing:?}").matches("mark").count(), size);
}

/// Who asks, as the audit row has it.
async fn who(server: &Server, peer: &str, forwarded: &[&[u8]]) -> String {
    let mut request = Request::post(format!("/billing/api/{SELL}?u=admin&id=11"));
    for line in forwarded {
        request = request.header("x-forwarded-for", *line);
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.headers_mut().insert("host", "shop.test".parse().unwrap());
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address(peer), 4711)));
    server.execute("truncate actions").await;
    let response = tower::ServiceExt::oneshot(server.router.clone(), request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    server.rows("select data3 from actions").await.concat()
}

#[tokio::test]
async fn a_proxy_says_who_asks_only_where_it_is_trusted() {
    let server = server_with_settings(&[("trusted_proxies", "10.0.0.0/8, 192.0.2.1,fd00::/8")]).await;
    for (peer, forwarded, client) in [
        // Anybody can send the header.
        ("203.0.113.9", &[&b"198.51.100.1"[..]][..], "203.0.113.9"),
        ("192.0.2.1", &[], "192.0.2.1"),
        ("192.0.2.1", &[b"198.51.100.1"], "198.51.100.1"),
        ("::ffff:192.0.2.1", &[b"::ffff:198.51.100.1"], "198.51.100.1"),
        // The rightmost that isn't a proxy of ours; what stands before it the client may have made up.
        ("192.0.2.1", &[b"6.6.6.6, 198.51.100.1 ,10.1.2.3"], "198.51.100.1"),
        ("192.0.2.1", &[b"6.6.6.6,198.51.100.1", b"10.1.2.3"], "198.51.100.1"),
        ("fd00::1", &[b"2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", &[b"198.51.100.1:50123"], "198.51.100.1"),
        ("10.0.0.1", &[b"[2001:db8::7]:50123"], "2001:db8::7"),
        ("10.0.0.1", &[b"[2001:db8::7]"], "2001:db8::7"),
        // Proxies all the way.
        ("10.0.0.1", &[b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        // As far as it can be read.
        ("10.0.0.1", &[b"198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", &[b"198.51.100.1, \xff, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", &[b""], "10.0.0.1"),
    ] {
        assert_eq!(who(&server, peer, forwarded).await, client, "{peer} {forwarded:?}");
    }
    // By default nobody is.
    let server = server_with_settings(&[]).await;
    assert_eq!(who(&server, "127.0.0.1", &[b"198.51.100.1"]).await, "127.0.0.1");
}
