//! Monitoring: `/livez`, `/readyz`, `/metrics` and the log (`operations.md`).

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};

use crate::harness::log::LogCapture;
use crate::harness::program::Program;
use crate::harness::proxy::FaultProxy;
use crate::harness::{
    FIXTURE_SQL, Reply, Server, postgres, server, server_on_database, server_with_connect_options,
    server_with_settings, with_timeout,
};

/// The lines of a page that begin with `start`.
fn lines<'a>(page: &'a str, start: &str) -> Vec<&'a str> {
    page.lines().filter(|line| line.starts_with(start)).collect()
}

/// Repeats `/readyz` until the database has answered: the first connections may take longer than the check waits.
async fn readiness(server: &Server) -> Reply {
    let reply = async {
        loop {
            let reply = server.get("/readyz").await;
            if !reply.body.contains("does not answer") {
                return reply;
            }
        }
    };
    with_timeout("an answer of the database", reply).await
}

/// Waits until `/metrics` also has the values that come from database queries; returns the page.
async fn complete_page(server: &Server) -> String {
    page_with(server, &["mortise_cards_left{", "mortise_outbox_messages{"]).await
}

/// Waits until `/metrics` contains all these texts; returns the page.
pub async fn page_with(server: &Server, texts: &[&str]) -> String {
    let page = async {
        loop {
            let page = server.metrics().await;
            if texts.iter().all(|text| page.contains(text)) {
                return page;
            }
        }
    };
    with_timeout(&texts.join(" "), page).await
}

#[tokio::test]
async fn readiness_requires_a_writable_database() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    let reply = readiness(&server).await;
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::OK, "ready\n"));

    server.execute(&format!("alter database {database} set default_transaction_read_only = on")).await;
    let read_only = readiness(&server_on_database(&database, &[]).await).await;
    assert_eq!(read_only.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(read_only.body, "not ready: the database is read-only\n");
}

/// Load balancers need a reply to remove the server. Readiness results are reused for a second.
#[tokio::test]
async fn server_without_database_is_live_but_not_ready() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    let other = server_on_database(&postgres::create_database("").await, &[]).await;
    assert_eq!(readiness(&server).await.status, StatusCode::OK);
    server.close().await;
    let terminate_connections =
        format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'");
    other.execute(&format!("alter database {database} allow_connections false")).await;
    let reply = loop {
        // Repeated: a connection that was being established is terminated the next time.
        other.execute(&terminate_connections).await;
        let reply = readiness(&server).await;
        if reply.status != StatusCode::OK {
            break reply;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.body, "not ready: the database is unreachable or cannot write\n");
    assert_eq!(server.get("/livez").await.body, "ok\n");
}

/// The check has a time limit, and then uses another connection.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_check_replaces_a_dead_connection() {
    let proxy = FaultProxy::new().await;
    let database = postgres::create_database(FIXTURE_SQL).await;
    let observer = server_on_database(&database, &[]).await;
    let server = server_with_connect_options(proxy.connect_options(&database), &[]).await;
    let ready_with = async |status| {
        let reply = async { while server.get("/readyz").await.status != status {} };
        with_timeout(&format!("readiness {status}"), reply).await;
    };
    ready_with(StatusCode::OK).await;
    proxy.freeze_connections();
    ready_with(StatusCode::SERVICE_UNAVAILABLE).await;
    ready_with(StatusCode::OK).await;
    // The process of the dead connection is ended too.
    let processes = "select count(*) from pg_stat_activity
                     where application_name = 'mortise health' and datname = current_database()";
    with_timeout("the end of a process", async { while observer.rows(processes).await != ["1"] {} }).await;
}

#[tokio::test]
async fn requests_are_counted_by_outcome() {
    let server = server().await;
    server.post_signed("card_from_group_sell", "u=admin&id=6&quantity=2&request_id=one", "62").await;
    server.post_signed("buy_card_from_callingroup", "u=admin&id=6&quantity=1", "61").await;
    server.post_signed("card_from_group_sell", "u=admin&id=11", "11").await;
    for _ in 0..3 {
        server.post_signed("card_from_group_sell", "u=admin&id=6", "wrong").await;
    }
    server.post_signed("card_from_group_sell", "u=unknown&id=6", "6").await;
    server.post("no_such", "").await;
    server.post_signed("card_from_group_sell", "u=admin&id=6&quantity=2&request_id=one", "62").await;
    let page = server.metrics().await;
    let mut requests = lines(&page, "mortise_requests_total{");
    requests.sort_unstable();
    assert_eq!(
        requests,
        [
            r#"mortise_requests_total{operation="card_from_group_sell",outcome="bad_login"} 1"#,
            r#"mortise_requests_total{operation="card_from_group_sell",outcome="done"} 2"#,
            r#"mortise_requests_total{operation="card_from_group_sell",outcome="free_cards_not_found"} 1"#,
            r#"mortise_requests_total{operation="card_from_group_sell",outcome="incorrect_hash"} 3"#,
            r#"mortise_requests_total{operation="card_from_group_sell",outcome="replayed"} 1"#,
            r#"mortise_requests_total{operation="none",outcome="unknown_operation"} 1"#,
        ]
    );
    for line in [
        r#"mortise_request_duration_seconds_count{operation="card_from_group_sell"} 8"#,
        r#"mortise_refused_hashes_total{user_id="0"} 3"#,
        "mortise_cards_sold_total 3",
        "mortise_requests_in_flight 0",
        "mortise_sales_queued 0",
        "mortise_request_bodies_bytes 0",
        "mortise_database_connections_max 4",
        "mortise_audit_rows_dropped_total 0",
    ] {
        assert!(page.lines().any(|metric| metric == line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn stock_is_counted_by_group() {
    let server = server().await;
    server
        .execute(
            "update cardgroups set name = 'Ten \"dollars\"' where id = 6;
             update cardgroups set hidden = 1 where id = 11",
        )
        .await;
    let [left]: [String; 1] =
        server.rows("select count(*) from card_stock where cardgroup_id = 6").await.try_into().unwrap();
    let page = complete_page(&server).await;
    assert_eq!(
        lines(&page, r#"mortise_cards_left{cardgroup_id="6","#),
        [format!(r#"mortise_cards_left{{cardgroup_id="6",name="Ten \"dollars\""}} {left}"#)]
    );
    assert_eq!(lines(&page, r#"mortise_cards_left{cardgroup_id="11","#), [""; 0], "hidden groups are not exported");
    assert!(page.ends_with("# EOF\n"), "{page}");
}

#[tokio::test]
async fn outbox_metrics_are_exported() {
    let server = server().await;
    let insert = "insert into email_outbox
            (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, sent_at, failed_at)
        select 0, 0, 'a@shop.test', n, '{}', '{}', 'USD', now() at time zone 'utc' - make_interval(hours => n),
            sent, failed
        from (values
            (1, null::timestamp, null::timestamp), (2, null, null), (3, now(), null), (4, null, now()),
            (5, null, now() - interval '2 days')) mail (n, sent, failed)";
    server.execute(insert).await;
    let page = complete_page(&server).await;
    let mut messages = lines(&page, "mortise_outbox_messages{");
    messages.sort_unstable();
    let metric = |state, count| format!("mortise_outbox_messages{{state=\"{state}\"}} {count}");
    assert_eq!(messages, [metric("failed", 1), metric("waiting", 2)]);
    let [oldest] = lines(&page, "mortise_outbox_oldest_age_seconds ")[..] else { panic!("{page}") };
    assert!((7200..7300).contains(&oldest.rsplit(' ').next().unwrap().parse::<i64>().unwrap()), "{oldest}");
}

/// An open snapshot, even of a session that is idle, prevents the vacuum of sold cards.
#[tokio::test]
async fn age_of_the_oldest_snapshot_is_exported() {
    let server = server().await;
    let age = |page: &str, unit| -> i64 {
        let name = format!("mortise_database_snapshot_age_{unit} ");
        let [line] = lines(page, &name)[..] else { panic!("{page}") };
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let mut snapshot = server.pool.begin().await.unwrap();
    sqlx::raw_sql("set transaction isolation level repeatable read; select count(*) from cards")
        .execute(&mut *snapshot)
        .await
        .unwrap();
    for _ in 0..20 {
        server.execute("select pg_current_xact_id()").await;
    }
    let page = page_with(&server, &["mortise_database_snapshot_age_"]).await;
    assert!(age(&page, "transactions") >= 20, "{page}");
    assert!((0..3600).contains(&age(&page, "seconds")), "{page}");
    snapshot.rollback().await.unwrap();
}

/// The other metrics are needed most while the database does not answer.
#[tokio::test]
async fn metrics_of_an_unresponsive_database_are_omitted() {
    // With this timeout the queries wait for the lock much longer than a scrape waits.
    let server = server_with_settings(&[("database_acquire_timeout_ms", "600000")]).await;
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("lock table email_outbox, card_stock in access exclusive mode").execute(&mut *lock).await.unwrap();
    for _ in 0..2 {
        let page =
            tokio::time::timeout(Duration::from_secs(60), server.metrics()).await.expect("/metrics does not reply");
        assert!(page.contains("mortise_requests_in_flight 0") && page.ends_with("# EOF\n"), "{page}");
        assert_eq!(lines(&page, "mortise_outbox"), [""; 0]);
        assert_eq!(lines(&page, "mortise_cards_left"), [""; 0]);
    }
    lock.rollback().await.unwrap();
    complete_page(&server).await;
}

#[tokio::test]
async fn cache_and_connection_metrics_are_exported() {
    let server = server_with_settings(&[("cache", "on")]).await;
    let page = loop {
        server.post_signed("card_group_get", "u=admin&id=6", "6").await;
        let page = server.metrics().await;
        if page.contains("mortise_cache_valid 1") && page.contains("mortise_cache_users 1") {
            break page;
        }
    };
    assert!(
        !lines(&page, "mortise_database_round_trip_seconds_count")
            .contains(&"mortise_database_round_trip_seconds_count 0")
    );
    assert_eq!(lines(&page, r#"mortise_database_connections{state="busy"}"#).len(), 1);
    let page = server_with_settings(&[("cache", "off")]).await.metrics().await;
    assert_eq!(lines(&page, "mortise_cache"), [""; 0], "the cache is off");
}

/// Sales figures must not be readable on the API's listener.
#[tokio::test]
async fn metrics_have_their_own_listener() {
    assert_eq!(server().await.get("/metrics").await.status, StatusCode::NOT_FOUND);
    let program =
        Program::start_on_database(&postgres::create_database(FIXTURE_SQL).await, &[("metrics_listen", "127.0.0.1:0")])
            .await;
    let address = program.monitoring_address().await;
    for (path, start) in [("metrics", "# HELP mortise_"), ("readyz", "ready\n"), ("livez", "ok\n")] {
        let mut page = String::new();
        program
            .get_streaming(&format!("http://{address}/{path}"), |bytes| page += str::from_utf8(bytes).unwrap())
            .await;
        assert!(page.starts_with(start), "{page}");
    }
    program.stop();
}

/// A valid `X-Request-Id` is kept; an invalid one is replaced.
#[tokio::test]
async fn log_lines_have_the_request_id() {
    let log = LogCapture::start();
    let server = server().await;
    let send_refused = async |id: &'static [u8]| {
        let request = Request::post("/api/card_from_group_sell?u=admin&id=6").header("x-request-id", id);
        server.send(request.body(Body::empty())).await.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(send_refused(b"from-the-proxy").await, "from-the-proxy");
    assert_eq!(log.count("request{id=\"from-the-proxy\" operation=\"card_from_group_sell\"}"), 2, "{}", log.text());
    for invalid in [&b"two words"[..], b"", b"\xff", &[b'x'; 129]] {
        let id = send_refused(invalid).await;
        assert_eq!(id.len(), 36, "{id}");
        assert!(log.count(&format!("request{{id=\"{id}\"")) == 2, "{}", log.text());
    }
}

/// With this value of the setting `log` the server logs a line for each request.
#[tokio::test]
async fn requests_can_be_logged() {
    let program = Program::start_on_database(
        &postgres::create_database(FIXTURE_SQL).await,
        &[("log", "warn,mortise::server=info,mortise::request=debug"), ("log_format", "json")],
    )
    .await;
    program.post_streaming("card_from_group_sell", "u=unknown".to_owned(), |_| ()).await;
    let log = program.stop();
    let line = log.lines().find(|line| line.contains("request completed")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "DEBUG");
    assert_eq!(line["fields"]["outcome"], "bad_login");
    assert_eq!(line["fields"]["status"], 200);
    assert_eq!(line["span"]["name"], "request");
    assert_eq!(line["span"]["operation"], "card_from_group_sell");
    assert_eq!(line["span"]["id"].as_str().unwrap().len(), 36);
}
