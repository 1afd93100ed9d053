//! Wrong hashes, passwords and PINs count as failed attempts; too many of them cause a lockout (`reliability.md`).

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use mortise::auth::attempt_limiter::{AttemptKind, AttemptLimiter, LockedOut};

use crate::harness::{Reply, Server, hash, server_with_settings};

const SELL: &str = "card_from_group_sell";
const LIMIT: &[(&str, &str)] = &[("failed_attempts_max", "3"), ("lockout_s", "3600")];

fn with_limit(settings: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [LIMIT, settings].concat()
}

/// Sends a sale from an empty group, forwarded for this client address.
async fn sell_from(server: &Server, client: &str, form: &str, key: &str) -> Reply {
    let request = Request::post(format!("/billing/api/{SELL}")).header("x-forwarded-for", client);
    let form = format!("{form}&id=11&hash={}", hash("11", key));
    server.send(request.header("content-type", "application/x-www-form-urlencoded").body(Body::from(form))).await
}

#[track_caller]
fn assert_locked_out(reply: &Reply) {
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS, "{}", reply.body);
    reply.assert_status_error("Too many wrong attempts");
    let seconds: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&seconds), "{seconds}");
}

/// The address of the test client is that of a trusted proxy.
const TRUSTED_PROXY: (&str, &str) = ("trusted_proxies", "192.0.2.7");

#[tokio::test]
async fn lockout_affects_only_the_client_and_user() {
    let server = server_with_settings(&with_limit(&[TRUSTED_PROXY])).await;
    for _ in 0..3 {
        sell_from(&server, "198.51.100.1", "u=admin", "wrong").await.assert_status_error("Incorrect hash");
    }
    // For every spelling of the name, and for wrong and right hashes: the reply must not reveal which hash is right.
    for form in ["u=admin", "u=ADMIN", "u=Admin++"] {
        assert_locked_out(&sell_from(&server, "198.51.100.1", form, "wrong").await);
        assert_locked_out(&sell_from(&server, "198.51.100.1", form, "secret").await);
    }
    sell_from(&server, "198.51.100.1", "u=accountant", "secret").await.assert_page_error("Free cards was not found");
    sell_from(&server, "198.51.100.2", "u=admin", "secret").await.assert_page_error("Free cards was not found");
    // Requests during the lockout add no audit rows.
    server.assert_rows("select data3 from actions", &["198.51.100.1"; 3]).await;
}

#[tokio::test]
async fn wrong_passwords_and_unknown_users_count() {
    let server = server_with_settings(&with_limit(&[TRUSTED_PROXY])).await;
    for form in ["u=admin&p=wrong", "u=unknown", "u=unknown2&p=wrong"] {
        for _ in 0..3 {
            sell_from(&server, "198.51.100.1", form, "secret").await.assert_status_error("Bad login");
        }
        assert_locked_out(&sell_from(&server, "198.51.100.1", form, "secret").await);
    }
    assert_locked_out(&sell_from(&server, "198.51.100.1", "u=admin&p=secret+password", "secret").await);
    sell_from(&server, "198.51.100.2", "u=admin&p=secret+password", "secret")
        .await
        .assert_page_error("Free cards was not found");
}

/// Correct requests neither count nor reset the counter, and other refusals do not count.
#[tokio::test]
async fn only_failed_attempts_count() {
    let server = server_with_settings(LIMIT).await;
    for _ in 0..2 {
        server.post_signed(SELL, "u=admin&id=11&p=wrong", "11").await.assert_status_error("Bad login");
    }
    for _ in 0..5 {
        server.post_signed(SELL, "u=admin&id=11", "11").await.assert_page_error("Free cards was not found");
        server.post_signed(SELL, "u=user&id=11", "11").await.assert_status_error("Access Denied");
    }
    server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    assert_locked_out(&server.post_signed(SELL, "u=admin&id=11", "11").await);
    server.execute("update conflines set value = '' where name = 'API_Secret_Key'").await;
    for _ in 0..5 {
        server.post(SELL, "u=accountant&id=11").await.assert_status_error("API must have Secret Key");
    }
}

/// Operations without strict admission refuse an unknown user with their own error; the attempt counts as well.
#[tokio::test]
async fn attempts_count_in_every_operation() {
    let server = server_with_settings(LIMIT).await;
    server.post("card_balance_get", "u=unknown&number=1").await;
    server.post("cc_groups_get", "u=unknown").await;
    server.post("tariff_wholesale_update", "u=unknown").await;
    assert_locked_out(&server.post("card_payment_add", "u=unknown").await);
}

#[tokio::test]
async fn zero_disables_the_limit() {
    let server = server_with_settings(&[("failed_attempts_max", "0")]).await;
    for _ in 0..150 {
        server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    }
}

#[tokio::test]
async fn default_limit_is_500_failed_attempts() {
    // A busy machine may not manage 500 requests within the default lockout of a minute.
    let server = server_with_settings(&[("lockout_s", "3600")]).await;
    for _ in 0..500 {
        server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    }
    assert_locked_out(&server.post_signed(SELL, "u=admin&id=11", "11").await);
}

/// The refusal needs no database query, so that guessing causes little load.
#[tokio::test]
async fn lockout_needs_no_database() {
    let server = server_with_settings(LIMIT).await;
    for _ in 0..3 {
        server.post(SELL, "u=admin&id=11").await.assert_status_error("Incorrect hash");
    }
    server.close().await;
    assert_locked_out(&server.post_signed(SELL, "u=admin&id=11", "11").await);
    assert_eq!(server.post(SELL, "u=accountant&id=11").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// However many requests arrive at once, only as many as the limit are checked.
#[tokio::test]
async fn concurrent_attempts_respect_the_limit() {
    for (form, hashed) in [("u=admin&id=11&hash=wrong", ""), ("u=admin&id=11&p=wrong&hash=", "11")] {
        let server = server_with_settings(&with_limit(&[("database_connections", "8")])).await;
        // The first login stores the argon2id hash, so that from now on a password check takes long.
        server
            .post_signed(SELL, "u=admin&id=11&p=secret+password", "11")
            .await
            .assert_page_error("Free cards was not found");
        let form = if hashed.is_empty() { form.to_owned() } else { form.to_owned() + &hash(hashed, "secret") };
        let requests = (0..40).map(|_| server.post(SELL, &form));
        let replies = futures_util::future::join_all(requests).await;
        let checked = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
        // Two password checks run at once: a fourth may have started before the third fails.
        assert!((3..=4).contains(&checked), "{checked}");
    }
}

/// Unknown PINs, which a shop's customers may type, lock out only requests with a PIN.
#[tokio::test]
async fn unknown_pins_are_counted_separately() {
    for (dialect, message) in [("documented", "Card was not found"), ("x7", "PIN number not found")] {
        let server = server_with_settings(&with_limit(&[("dialect", dialect)])).await;
        let update_by_pin = async |pin: &str| {
            let form = format!("u=admin&pin={pin}&callerid=555");
            server.post_signed("card_by_cli_update", &form, &format!("{pin}555")).await
        };
        for pin in ["5551", "5552", "5553"] {
            assert_eq!(update_by_pin(pin).await.element_texts("error").concat(), message);
        }
        assert_locked_out(&update_by_pin("5554").await);
        assert_locked_out(&update_by_pin("0042").await);
        server.post_signed(SELL, "u=admin&id=11", "11").await.assert_page_error("Free cards was not found");
        let reply =
            server.post_signed("card_by_cli_update", "u=admin&callerid=555&amount=1&cardgroup_id=6", "15556").await;
        assert_eq!(reply.element_texts("status").len(), 1, "{}", reply.body);
        assert_eq!(reply.element_texts("callerid"), ["555"]);
    }
}

#[tokio::test]
async fn concurrent_pin_attempts_respect_the_limit() {
    let server = server_with_settings(&with_limit(&[("database_connections", "2")])).await;
    let requests = (0..40).map(async |callerid| {
        let (form, hashed) = (format!("u=admin&pin=5551&callerid={callerid}"), format!("5551{callerid}"));
        server.post_signed("card_by_cli_update", &form, &hashed).await
    });
    let replies = futures_util::future::join_all(requests).await;
    let checked = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
    // Three connections are in use, one of them for changes: two more requests may be in progress when the third
    // attempt fails.
    assert!((3..=5).contains(&checked), "{checked}");
}

/// A reply that is replayed for an idempotency key is no further attempt.
#[tokio::test]
async fn replayed_pin_attempt_counts_once() {
    let server = server_with_settings(LIMIT).await;
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

/// The database considers some letters equal. Using them must not allow more attempts.
#[test]
fn spellings_of_a_user_name_share_the_counter() {
    let limiter = AttemptLimiter::new(2, NonZero::new(60).unwrap());
    let (client, now) = (address("192.0.2.1"), Instant::now());
    limiter.record_failure(AttemptKind::Login, client, "ADMIN ", now);
    assert!(limiter.record_failure(AttemptKind::Login, client, "adm\u{130}n", now));
    assert_eq!(limiter.check(AttemptKind::Login, client, "admin", now), Err(LockedOut { seconds: 60 }));
}

#[test]
fn lockout_expires() {
    let limiter = AttemptLimiter::new(2, NonZero::new(60).unwrap());
    let (client, now) = (address("192.0.2.1"), Instant::now());
    let later = |seconds: u64| now + Duration::from_secs(seconds);
    let check = |seconds| limiter.check(AttemptKind::Login, client, "admin", later(seconds));
    assert!(!limiter.record_failure(AttemptKind::Login, client, "admin", now));
    // The first failure expires after the lockout time, so the second one starts a new count.
    assert!(!limiter.record_failure(AttemptKind::Login, client, "admin", later(61)));
    assert_eq!(check(61), Ok(()));
    assert!(limiter.record_failure(AttemptKind::Login, client, "admin", later(100)));
    assert_eq!(check(101), Err(LockedOut { seconds: 59 }));
    assert_eq!(check(159), Err(LockedOut { seconds: 1 }));
    assert_eq!(check(161), Ok(()));
    // After the lockout, counting starts again at 0.
    assert!(!limiter.record_failure(AttemptKind::Login, client, "admin", later(161)));
    assert_eq!(check(161), Ok(()));
}

#[test]
fn ipv6_network_counts_as_one_client() {
    let limiter = AttemptLimiter::new(2, NonZero::new(60).unwrap());
    let now = Instant::now();
    limiter.record_failure(AttemptKind::Login, address("2001:db8:0:1::1"), "admin", now);
    limiter.record_failure(AttemptKind::Login, address("2001:db8:0:1:ffff::2"), "admin", now);
    assert!(limiter.check(AttemptKind::Login, address("2001:db8:0:1::3"), "admin", now).is_err());
    assert!(limiter.check(AttemptKind::Login, address("2001:db8:0:2::1"), "admin", now).is_ok());
}

/// Attempts with many invented user names do not use more memory, and do not end a lockout.
#[test]
fn many_user_names_do_not_end_a_lockout() {
    let limiter = AttemptLimiter::new(3, NonZero::new(60).unwrap());
    let (client, now) = (address("192.0.2.1"), Instant::now());
    for _ in 0..3 {
        limiter.record_failure(AttemptKind::Login, client, "admin", now);
    }
    let size = format!("{limiter:?}").matches("key_hash").count();
    assert!(size > 0);
    for name in 0..200_000 {
        limiter.record_failure(AttemptKind::Login, client, &name.to_string(), now);
    }
    assert!(limiter.check(AttemptKind::Login, client, "admin", now).is_err());
    assert_eq!(format!("{limiter:?}").matches("key_hash").count(), size);
}

/// Returns the client address in the audit row of a refused request.
async fn audited_client(server: &Server, peer: &str, forwarded: &[&[u8]]) -> String {
    let mut request = Request::post(format!("/billing/api/{SELL}?u=admin&id=11"));
    for value in forwarded {
        request = request.header("x-forwarded-for", *value);
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
async fn x_forwarded_for_counts_only_from_trusted_proxies() {
    let server = server_with_settings(&[("trusted_proxies", "10.0.0.0/8, 192.0.2.1,fd00::/8")]).await;
    for (peer, forwarded, client) in [
        // The peer is not a trusted proxy: any client can send the header.
        ("203.0.113.9", &[&b"198.51.100.1"[..]][..], "203.0.113.9"),
        ("192.0.2.1", &[], "192.0.2.1"),
        ("192.0.2.1", &[b"198.51.100.1"], "198.51.100.1"),
        ("::ffff:192.0.2.1", &[b"::ffff:198.51.100.1"], "198.51.100.1"),
        // The rightmost address that is not a trusted proxy; the client may have invented the addresses before it.
        ("192.0.2.1", &[b"6.6.6.6, 198.51.100.1 ,10.1.2.3"], "198.51.100.1"),
        ("192.0.2.1", &[b"6.6.6.6,198.51.100.1", b"10.1.2.3"], "198.51.100.1"),
        ("fd00::1", &[b"2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", &[b"198.51.100.1:50123"], "198.51.100.1"),
        ("10.0.0.1", &[b"[2001:db8::7]:50123"], "2001:db8::7"),
        ("10.0.0.1", &[b"[2001:db8::7]"], "2001:db8::7"),
        // All addresses are trusted proxies: the leftmost counts.
        ("10.0.0.1", &[b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        // Addresses before an unreadable one are ignored.
        ("10.0.0.1", &[b"198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", &[b"198.51.100.1, \xff, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", &[b""], "10.0.0.1"),
    ] {
        assert_eq!(audited_client(&server, peer, forwarded).await, client, "{peer} {forwarded:?}");
    }
    // By default no proxy is trusted.
    let server = server_with_settings(&[]).await;
    assert_eq!(audited_client(&server, "127.0.0.1", &[b"198.51.100.1"]).await, "127.0.0.1");
}
