//! Paths, methods, parameters and the form of the reply (`http.md`).

use axum::body::Body;
use axum::http::{Request, StatusCode};

use crate::harness::{Reply, Server, hash, server, server_with_settings, x7_server};

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// A signed question for group 11, which is answered with `Free cards was not found` when everything was understood.
fn question() -> String {
    format!("u=admin&id=11&hash={}", hash("11", "secret"))
}

async fn body(server: &Server, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
    let request = Request::post("/billing/api/card_from_group_sell").header("content-type", content_type);
    server.send(request.body(Body::from(body.into()))).await
}

#[tokio::test]
async fn every_name_and_path_leads_to_the_operation() {
    let server = server().await;
    for path in [
        "/billing/api/card_from_group_sell",
        "/api/card_from_group_sell",
        "/billing/api/buy_card_from_callingroup",
        "/api/buy_card_from_callingroup",
        "/billing/api/card_from_group_sell/",
        "/billing/api/card_from_group_sell.xml",
        "/billing/api/card_from_group_sell.json",
        "/billing/api/card_from_group_sell.csv",
    ] {
        server.get(&format!("{path}?{}", question())).await.assert_page_error("Free cards was not found");
    }
}

#[tokio::test]
async fn a_segment_behind_the_name_is_the_id_before_any_other() {
    let server = server().await;
    let rest = format!("u=admin&hash={}", hash("11", "secret"));
    for id in ["11", "11.xml", "11/", "%31%31"] {
        let uri = format!("/billing/api/card_from_group_sell/{id}?id=6&{rest}");
        server.get(&uri).await.assert_page_error("Free cards was not found");
    }
    let reply = server.get(&format!("/api/card_from_group_sell/11/12?{rest}")).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let reply = server.get(&format!("/api/card_from_group_sell/%FF?{rest}")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_prefix_is_a_setting() {
    for (prefix, path) in [("/shop/", "/shop/api/"), ("", "/api/")] {
        let server = server_with_settings(&[("prefix", prefix)]).await;
        let reply = server.get(&format!("{path}card_from_group_sell?{}", question())).await;
        reply.assert_page_error("Free cards was not found");
        let reply = server.get(&format!("/billing/api/card_from_group_sell?{}", question())).await;
        reply.assert_status_error("There is no such API");
    }
}

#[tokio::test]
async fn an_unknown_operation_is_not_found_but_an_x7_server_says_so_with_200() {
    let (server, x7) = (server().await, x7_server().await);
    for path in [
        "/billing/api/nosuch",
        "/api/",
        "/api",
        "/",
        "/billing",
        "/billing/api/Card_from_group_sell",
        "/api/card_from_group_sell.pdf",
    ] {
        let reply = server.get(path).await;
        reply.assert_status_error("There is no such API");
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        let reply = x7.get(path).await;
        reply.assert_status_error("There is no such API");
        assert_eq!(reply.status, StatusCode::OK);
    }
    let html = format!("/api/card_from_group_sell.html?{}", question());
    server.get(&html).await.assert_status_error("There is no such API");
    x7.get(&html).await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn other_methods_are_refused_with_those_that_are_not() {
    let server = server().await;
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let request = Request::builder().method(method).uri(format!("/api/card_from_group_sell?{}", question()));
        let reply = server.send(request.body(Body::empty())).await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.header("allow"), Some("GET, HEAD, POST"));
        reply.assert_status_error("Method is not allowed");
    }
}

#[tokio::test]
async fn head_is_answered_like_get_without_the_body() {
    let server = server().await;
    let uri = format!("/billing/api/card_from_group_sell?{}", question());
    let get = server.get(&uri).await;
    let head = server.send(Request::head(&uri).body(Body::empty())).await;
    assert_eq!(head.body, "");
    assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
    assert_eq!(head.header("content-type"), get.header("content-type"));
}

#[tokio::test]
async fn parameters_come_from_query_and_body_together() {
    let server = server().await;
    let hash = hash("11", "secret");
    let post = async |uri: &str, form: &str| {
        let request = Request::post(uri).header("content-type", "application/x-www-form-urlencoded; charset=UTF-8");
        server.send(request.body(Body::from(form.to_owned()))).await
    };
    let uri = "/billing/api/card_from_group_sell?u=admin&id=11";
    post(uri, &format!("hash={hash}")).await.assert_page_error("Free cards was not found");
    // The query string wins; in one place the last wins.
    post(uri, &format!("u=nobody&id=6&hash={hash}")).await.assert_page_error("Free cards was not found");
    post("/billing/api/card_from_group_sell?u=nobody&u=admin", &format!("id=6&id=11&hash=x&hash={hash}"))
        .await
        .assert_page_error("Free cards was not found");
    // A body without a type is a form; one of another type is none of our business.
    let untyped = Request::post(uri).body(Body::from(format!("hash={hash}")));
    server.send(untyped).await.assert_page_error("Free cards was not found");
    body(&server, "application/xml", "<x/>").await.assert_status_error("Bad login");
    body(&server, "text/plain", question()).await.assert_status_error("Bad login");
}

#[tokio::test]
async fn a_query_string_is_read_as_the_original_reads_it() {
    let server = server().await;
    let hash = hash("a b+c;&11", "secret");
    for (query, refusal) in [
        (format!("u=admin;id=11;email=a+b%2Bc%3B%26;hash={hash}"), None),
        (format!("&&u=admin&;id=11&email=a%20b%2bc%3b%26&hash={hash}&"), None),
        (format!("u=admin&id=11&email=a+b%2Bc%3B%26&hash={hash}&zz=%C3%A9&q&=w"), None),
        (format!("u[]=admin&id=11&email=a+b%2Bc%3B%26&hash={hash}"), Some("Bad login")),
        (format!("?u=admin&id=11&email=a+b%2Bc%3B%26&hash={hash}"), Some("Bad login")),
        (format!("u=admin&id=11&email=a+b%2Bc%3B%26&hash[]={hash}"), Some("Incorrect hash")),
    ] {
        let reply = server.get(&format!("/api/card_from_group_sell?{query}")).await;
        match refusal {
            None => reply.assert_page_error("Free cards was not found"),
            Some(words) => reply.assert_status_error(words),
        }
    }
}

#[tokio::test]
async fn multipart_fields_are_parameters_and_files_are_not() {
    let server = server().await;
    let form = |fields: &[(&str, &str)]| {
        let parts = fields
            .iter()
            .map(|(head, value)| format!("--X\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n"));
        parts.collect::<String>() + "--X--\r\n"
    };
    let hash = hash("11", "secret");
    let fields = [("name=\"u\"", "admin"), ("name=\"id\"", "11"), ("name=\"hash\"", hash.as_str())];
    body(&server, "multipart/form-data; boundary=X", form(&fields)).await.assert_page_error("Free cards was not found");
    let file = ("name=\"u\"; filename=\"u.txt\"", "admin");
    body(&server, "multipart/form-data; boundary=X", form(&[file])).await.assert_status_error("Bad login");
    for (content_type, text) in [
        ("multipart/form-data", form(&fields)),
        ("multipart/form-data; boundary=Y", form(&fields)),
        ("multipart/form-data; boundary=X", form(&fields).replace("--X--", "")),
        ("multipart/form-data; boundary=X", "--X\r\nnonsense".to_owned()),
    ] {
        let reply = body(&server, content_type, text).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{content_type}");
        reply.assert_status_error("Multipart body is malformed");
    }
}

#[tokio::test]
async fn a_flat_json_object_is_parameters() {
    let server = server().await;
    let json = "application/json; charset=utf-8";
    let hash = hash("1.5011true", "secret");
    let ask = async |id: &str, rest: &str| {
        let text = format!(r#"{{"u": "admin", "id": {id}, "hash": "{hash}"{rest}}}"#);
        body(&server, json, text).await
    };
    // Numbers count as they were written, truth values as their names.
    ask("11", r#", "email": 1.50, "status": true"#).await.assert_page_error("Free cards was not found");
    ask("11", r#", "email": "1.50", "status": "true", "quantity": null, "name": [1], "pin": {}"#)
        .await
        .assert_page_error("Free cards was not found");
    ask("11", r#", "email": 1.5, "status": true"#).await.assert_status_error("Incorrect hash");
    for malformed in ["[1]", "{", "7", "null", "{\"u\":\"\u{1}", "\"u=admin\""] {
        let reply = body(&server, json, malformed).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        reply.assert_status_error("JSON body is malformed: it must be an object");
    }
    body(&server, json, "").await.assert_status_error("Bad login");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_so_many_words_and_changes_nothing() {
    let server = server_with_settings(&[("max_parameters", "50"), ("max_body", "1000")]).await;
    let form = "application/x-www-form-urlencoded";
    let sale = format!("u=admin&id=6&hash={}", hash("6", "secret"));
    for (text, status, words) in [
        (format!("{sale}&curr=%00"), 400, "A NUL character is not allowed in parameters"),
        (format!("{sale}&cu%00rr=1"), 400, "A NUL character is not allowed in parameters"),
        (format!("{sale}&curr=%ff%fe"), 400, "Parameters are not valid UTF-8"),
        (format!("{sale}&curr=%f"), 400, "Parameters have a malformed % escape"),
        (format!("{sale}&curr=50%"), 400, "Parameters have a malformed % escape"),
        (format!("{sale}&curr=%zz"), 400, "Parameters have a malformed % escape"),
        (format!("{sale}{}", (0..50).map(|i| format!("&x{i}=")).collect::<String>()), 400, "Too many parameters"),
        (format!("{sale}{}", "&x=".repeat(50)), 400, "Too many parameters"),
        (format!("{sale}&x={}", "y".repeat(1000)), 413, "Request is too large"),
    ] {
        let reply = body(&server, form, text).await;
        reply.assert_status_error(words);
        assert_eq!(reply.status.as_u16(), status);
    }
    server.assert_rows("select count(*) from payments", &["0"]).await;
    // As many as the limit allows.
    let most: String = (0..45).map(|i| format!("&x{i}=")).collect();
    assert_eq!(body(&server, form, format!("{sale}{most}&u=admin&x1=2")).await.element_texts("pin").len(), 1);
}

#[tokio::test]
async fn control_characters_and_other_alphabets_do_no_harm() {
    let server = server().await;
    let odd = "%01%0D%0ASet-Cookie:%20x%3C%26%22'%3B--%E6%BC%A2%F0%9F%92%B3";
    let hashed = "\u{1}\r\nSet-Cookie: x<&\"';--漢💳6";
    let reply = server.post_signed("card_from_group_sell", &format!("u=admin&id=6&email={odd}"), hashed).await;
    assert_eq!(reply.element_texts("pin"), ["0042"]);
    assert_eq!(reply.header("set-cookie"), None);
    server
        .assert_rows("select email = E'\\ufffd\\r\\nSet-Cookie: x<&\"'';--漢💳' as same from ccorders", &["true"])
        .await;
}

/// The hash is of what was sent; what is kept, shown and written down is free of what does harm there.
#[tokio::test]
async fn control_characters_are_hashed_as_they_come_and_go_no_further() {
    for server in [server().await, x7_server().await] {
        let sent: String =
            (1..=0x9f).filter_map(char::from_u32).filter(|c| c.is_control()).chain(['\u{fffe}', '\u{ffff}']).collect();
        let escaped = percent_encoding::percent_encode(sent.as_bytes(), percent_encoding::NON_ALPHANUMERIC);
        let kept: String = sent.chars().map(|c| if matches!(c, '\t' | '\n' | '\r') { c } else { '\u{fffd}' }).collect();
        server.execute("insert into tariffs (name) values ('one'); insert into lcrs (name) values ('one'); insert into locations (name) values ('one')").await;
        // In the database,
        let form = format!("u=admin&name=n{escaped}");
        let reply = server.post_signed("cc_group_create", &form, &format!("n{sent}")).await;
        assert_eq!(reply.element_texts("error"), Vec::<&str>::new());
        let name: String = sqlx::query_scalar("select name from cardgroups order by id desc limit 1")
            .fetch_one(&server.pool)
            .await
            .unwrap();
        assert_eq!(name, format!("n{kept}"));
        // in a reply that repeats a parameter,
        let callerid =
            format!("7{}", percent_encoding::percent_encode(b"\x01\x1b[2J\x7f", percent_encoding::NON_ALPHANUMERIC));
        let form = format!("u=admin&callerid={callerid}&cardgroup_id=6&amount=1");
        let reply = server.post_signed("card_by_cli_update", &form, "17\u{1}\u{1b}[2J\u{7f}6").await;
        assert_eq!(reply.element_texts("callerid"), ["7\u{fffd}\u{fffd}[2J\u{fffd}"]);
        server.assert_rows("select count(*) from cards where callerid = E'7\\ufffd\\ufffd[2J\\ufffd'", &["1"]).await;
        // and in the names that an audit row has.
        server.post("card_from_group_sell", "u=admin&%1b%5b2J=1").await.assert_status_error("Incorrect hash");
        server.assert_rows("select data4 from actions where action = 'error'", &["u, \u{fffd}[2J"]).await;
    }
}

/// A password may have any character.
#[tokio::test]
async fn a_password_is_taken_as_it_comes() {
    let server = server().await;
    server.execute(&format!("update users set password = '{}' where id = 0", hash("a\u{1}b", ""))).await;
    server
        .post_signed("card_from_group_sell", "u=admin&id=11&p=a%01b", "11")
        .await
        .assert_page_error("Free cards was not found");
    server
        .post_signed("card_from_group_sell", "u=admin&id=11&p=a%EF%BF%BDb", "11")
        .await
        .assert_status_error("Bad login");
    // A key that can't be printed is none, before and after.
    let form = "u=admin&id=11&request_id=a%01b";
    assert_eq!(server.post_signed("card_from_group_sell", form, "11").await.status, StatusCode::BAD_REQUEST);
}

/// Whatever a parameter says, the reply's headers are the same; what is echoed is one line.
#[tokio::test]
async fn no_parameter_becomes_a_header() {
    let server = server().await;
    let names = |reply: &Reply| reply.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
    let plain = server.get("/api/card_from_group_sell?u=nobody").await;
    let evil = "%0d%0aSet-Cookie:%20a=b%0d%0a%0d%0a%3Cscript%3E";
    for uri in [
        format!("/api/card_from_group_sell?u={evil}"),
        format!("/api/card_from_group_sell/{evil}?u=nobody"),
        format!("/api/card_from_group_sell?u=nobody&format={evil}"),
        format!("/api/card_from_group_sell?u=nobody&test=0{evil}&request_id={evil}"),
        format!("/api/card_from_group_sell?u=nobody&{evil}={evil}"),
    ] {
        let reply = server.get(&uri).await;
        assert_eq!(names(&reply), names(&plain), "{uri}");
        assert_eq!(reply.body, plain.body, "{uri}");
        assert!(reply.headers.values().all(|value| !value.as_bytes().iter().any(|byte| b"\r\n".contains(byte))));
    }
}

/// As bytes on the line: a request id that breaks it isn't echoed.
#[tokio::test]
async fn a_broken_request_id_is_not_echoed() {
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
async fn the_reply_has_the_headers_of_mors() {
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
            .execute(&format!("delete from conflines where name = 'XML_API_Extension'; insert into conflines (name, value) values ('XML_API_Extension', '{extension}')"))
            .await;
        // Refusals look like any other reply.
        for question in [question(), "u=nobody".to_owned()] {
            let reply = server.get(&format!("/billing/api/card_from_group_sell?{question}{extra}")).await;
            assert_eq!(reply.header("content-type"), Some(content_type), "{extra}");
            assert_eq!(reply.header("content-disposition"), disposition.as_deref(), "{extra}");
            assert_eq!(reply.header("content-transfer-encoding"), disposition.as_ref().map(|_| "binary"));
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
            assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()));
        }
    }
    let reply = x7.get(&format!("/billing/api/card_from_group_sell.json?{}&test=1", question())).await;
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
}

#[tokio::test]
async fn an_x7_server_shows_an_unknown_api_as_html_whatever_the_settings() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, shown) in [(&server, "application/xml; charset=utf-8"), (&x7, "text/html; charset=utf-8")] {
        server.execute("insert into conflines (name, value) values ('XML_API_Extension', '1')").await;
        assert_eq!(server.get("/billing/api/nosuch?test=1&format=json").await.header("content-type"), Some(shown));
        assert_eq!(server.get("/billing/api/nosuch").await.header("content-type"), Some("text/xml"));
    }
}

#[tokio::test]
async fn a_request_id_is_kept() {
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
async fn without_the_database_the_client_is_told_to_come_back() {
    let server = server().await;
    server.close().await;
    let reply = server.get(&format!("/billing/api/card_from_group_sell?{}", question())).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.header("retry-after"), Some("1"));
    reply.assert_status_error("Service is temporarily unavailable");
}

/// What needs no database is answered without it, whatever state it is in.
#[tokio::test]
async fn refusals_that_need_no_database_do_not_wait_for_it() {
    let server = server_with_settings(&[("cache", "on"), ("database_acquire_timeout_ms", "3600000")]).await;
    let _held = server.hold_connections().await;
    assert_eq!(server.get("/api/nosuch").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/card_from_group_sell?u=%00").await.status, StatusCode::BAD_REQUEST);
    let put = Request::put("/api/card_from_group_sell").body(Body::empty());
    assert_eq!(server.send(put).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_full_pool_is_waited_for_as_long_as_the_setting_says() {
    let server = server_with_settings(&[("database_connections", "1"), ("database_acquire_timeout_ms", "2000")]).await;
    let held = server.hold_connections().await;
    let reply = server.get(&format!("/billing/api/card_from_group_sell?{}", question())).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(held);
    let reply = server.get(&format!("/billing/api/card_from_group_sell?{}", question())).await;
    reply.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn the_reply_is_the_same_to_the_byte() {
    let server = server().await;
    let reply = server.get("/api/card_from_group_sell?u=nobody").await;
    assert_eq!(reply.body, format!("{DECLARATION}<status>\n  <error>Bad login</error>\n</status>\n"));
}
