//! Headers, status and exact body of replies, and replies without a database (`http.md`).

use axum::body::Body;
use axum::http::{Request, StatusCode};

use super::signed_query;
use crate::harness::{Reply, server, server_with_settings, x7_server};

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// No parameter value changes the header names of the reply, or adds a line to a header value.
#[tokio::test]
async fn parameters_cannot_add_headers() {
    let server = server().await;
    let names = |reply: &Reply| reply.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
    let plain = server.get("/api/card_from_group_sell?u=unknown").await;
    let injection = "%0d%0aSet-Cookie:%20a=b%0d%0a%0d%0a%3Cscript%3E";
    for uri in [
        format!("/api/card_from_group_sell?u={injection}"),
        format!("/api/card_from_group_sell/{injection}?u=unknown"),
        format!("/api/card_from_group_sell?u=unknown&format={injection}"),
        format!("/api/card_from_group_sell?u=unknown&test=0{injection}&request_id={injection}"),
        format!("/api/card_from_group_sell?u=unknown&{injection}={injection}"),
    ] {
        let reply = server.get(&uri).await;
        assert_eq!(names(&reply), names(&plain), "{uri}");
        assert_eq!(reply.body, plain.body, "{uri}");
        assert!(reply.headers.values().all(|value| !value.as_bytes().iter().any(|byte| b"\r\n".contains(byte))));
    }
}

/// Sent over a socket: an `X-Request-Id` with control characters is not echoed.
#[tokio::test]
async fn invalid_request_id_is_not_echoed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = server().await.listen().await;
    for (id, echoed) in
        [("ok", true), ("a\rSet-Cookie: b", false), ("a\n\tSet-Cookie: b", false), ("a\0b", false), ("a\x7fb", false)]
    {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET /livez HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nX-Request-Id: {id}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).await.unwrap();
        assert_eq!(reply.contains("x-request-id: ok\r\n"), echoed, "{id:?}");
        assert!(!reply.to_lowercase().contains("set-cookie"), "{reply}");
    }
}

#[tokio::test]
async fn replies_have_the_headers_of_mor() {
    let (server, x7) = (server().await, x7_server().await);
    let download = |kind: &str| Some(format!("attachment; filename=\"mor_api_response.{kind}\""));
    for (server, extension, extra, content_type, disposition) in [
        (&server, "0", "", "text/html", download("html")),
        (&server, "0", "&test=0", "text/html", download("html")),
        (&server, "0", "&test=abc", "text/html", download("html")),
        (&server, "0", "&test=2", "text/html", download("html")),
        (&server, "0", "&test=1", "text/html; charset=utf-8", None),
        (&server, "0", "&test=%201x", "text/html; charset=utf-8", None),
        (&server, "1", "", "text/xml", download("xml")),
        (&server, "1", "&test=1", "application/xml; charset=utf-8", None),
        (&server, "0", "&test=1&format=json", "text/html; charset=utf-8", None),
        (&x7, "0", "&test=1&format=json", "application/json; charset=utf-8", None),
        (&x7, "0", "&test=1&format=csv", "text/csv; charset=utf-8", None),
        (&x7, "0", "&test=1&format=xml", "application/xml; charset=utf-8", None),
        (&x7, "0", "&test=1&format=pdf", "text/html; charset=utf-8", None),
        (&x7, "0", "&format=json", "text/html", download("html")),
    ] {
        server
            .execute(&format!(
                "delete from conflines where name = 'XML_API_Extension';
                 insert into conflines (name, value) values ('XML_API_Extension', '{extension}')"
            ))
            .await;
        // Errors have the same headers.
        for query in [signed_query(), "u=unknown".to_owned()] {
            let reply = server.get(&format!("/billing/api/card_from_group_sell?{query}{extra}")).await;
            assert_eq!(reply.header("content-type"), Some(content_type), "{extra}");
            assert_eq!(reply.header("content-disposition"), disposition.as_deref(), "{extra}");
            assert_eq!(reply.header("content-transfer-encoding"), disposition.as_ref().map(|_| "binary"));
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
            assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()));
        }
    }
    let reply = x7.get(&format!("/billing/api/card_from_group_sell.json?{}&test=1", signed_query())).await;
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
}

#[tokio::test]
async fn x7_replies_to_unknown_operations_as_html() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, content_type) in [(&server, "application/xml; charset=utf-8"), (&x7, "text/html; charset=utf-8")] {
        server.execute("insert into conflines (name, value) values ('XML_API_Extension', '1')").await;
        assert_eq!(
            server.get("/billing/api/nosuch?test=1&format=json").await.header("content-type"),
            Some(content_type)
        );
        assert_eq!(server.get("/billing/api/nosuch").await.header("content-type"), Some("text/xml"));
    }
}

#[tokio::test]
async fn valid_request_id_is_echoed() {
    let server = server().await;
    let request = Request::get("/api/nosuch").header("x-request-id", "shop-17");
    assert_eq!(server.send(request.body(Body::empty())).await.header("x-request-id"), Some("shop-17"));
}

#[tokio::test]
async fn livez_answers_without_the_database() {
    let server = server().await;
    server.close().await;
    let reply = server.get("/livez").await;
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::OK, "ok\n"));
}

#[tokio::test]
async fn unreachable_database_is_503_with_retry_after() {
    let server = server().await;
    server.close().await;
    let reply = server.get(&format!("/billing/api/card_from_group_sell?{}", signed_query())).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.header("retry-after"), Some("1"));
    reply.assert_status_error("Service is temporarily unavailable");
}

/// All connections are in use here.
#[tokio::test]
async fn errors_that_need_no_database_do_not_wait_for_it() {
    let server = server_with_settings(&[("cache", "on"), ("database_acquire_timeout_ms", "3600000")]).await;
    let _held = server.hold_connections().await;
    assert_eq!(server.get("/api/nosuch").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/card_from_group_sell?u=%00").await.status, StatusCode::BAD_REQUEST);
    let put = Request::put("/api/card_from_group_sell").body(Body::empty());
    assert_eq!(server.send(put).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn requests_wait_for_a_connection_until_the_timeout() {
    let server = server_with_settings(&[("database_connections", "1"), ("database_acquire_timeout_ms", "2000")]).await;
    let held = server.hold_connections().await;
    let reply = server.get(&format!("/billing/api/card_from_group_sell?{}", signed_query())).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(held);
    let reply = server.get(&format!("/billing/api/card_from_group_sell?{}", signed_query())).await;
    reply.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn reply_body_is_exact() {
    let server = server().await;
    let reply = server.get("/api/card_from_group_sell?u=unknown").await;
    assert_eq!(reply.body, format!("{DECLARATION}<status>\n  <error>Bad login</error>\n</status>\n"));
}
