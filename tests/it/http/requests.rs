//! Paths, methods and parameters of requests (`http.md`).

use axum::body::Body;
use axum::http::{Request, StatusCode};

use super::signed_query;
use crate::harness::log::LogCapture;
use crate::harness::{Reply, Server, hash, server, server_with_settings, x7_server};

async fn post_body(server: &Server, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
    let request = Request::post("/billing/api/card_from_group_sell").header("content-type", content_type);
    server.send(request.body(Body::from(body.into()))).await
}

#[tokio::test]
async fn all_names_and_paths_reach_the_operation() {
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
        "//billing/api/card_from_group_sell",
        "/billing//api/card_from_group_sell",
        "///billing/api////card_from_group_sell//",
        "//api//buy_card_from_callingroup.xml",
    ] {
        server.get(&format!("{path}?{}", signed_query())).await.assert_page_error("Free cards was not found");
    }
}

#[tokio::test]
async fn path_segment_overrides_the_id_parameter() {
    let server = server().await;
    let query = format!("u=admin&hash={}", hash("11", "secret"));
    for id in ["11", "11.xml", "11/", "%31%31", "/11", "//11//"] {
        let uri = format!("/billing/api/card_from_group_sell/{id}?id=6&{query}");
        server.get(&uri).await.assert_page_error("Free cards was not found");
    }
    let reply = server.get(&format!("/api/card_from_group_sell/11/12?{query}")).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let reply = server.get(&format!("/api/card_from_group_sell/%FF?{query}")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn prefix_is_a_setting() {
    for (prefix, path) in [("/shop/", "/shop/api/"), ("", "/api/")] {
        let server = server_with_settings(&[("prefix", prefix)]).await;
        let reply = server.get(&format!("{path}card_from_group_sell?{}", signed_query())).await;
        reply.assert_page_error("Free cards was not found");
        let reply = server.get(&format!("/billing/api/card_from_group_sell?{}", signed_query())).await;
        reply.assert_status_error("There is no such API");
    }
}

#[tokio::test]
async fn unknown_operation_is_404_and_200_in_x7() {
    let (server, x7) = (server().await, x7_server().await);
    for path in [
        "/billing/api/nosuch",
        "/api/",
        "/api",
        "/billing",
        "/billing/api/Card_from_group_sell",
        "/api/card_from_group_sell.pdf",
        "/api/card_from_group_sell.php",
        "//api//nosuch",
    ] {
        let reply = server.get(path).await;
        reply.assert_status_error("There is no such API");
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        let reply = x7.get(path).await;
        reply.assert_status_error("There is no such API");
        assert_eq!(reply.status, StatusCode::OK);
    }
    let html = format!("/api/card_from_group_sell.html?{}", signed_query());
    server.get(&html).await.assert_status_error("There is no such API");
    x7.get(&html).await.assert_page_error("Free cards was not found");
}

/// A browser shows the page `/`, and does not download it.
#[tokio::test]
async fn root_is_a_page_that_names_the_api() {
    for server in [server().await, x7_server().await, server_with_settings(&[("prefix", "")]).await] {
        let reply = server.get("/").await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(reply.header("content-disposition"), None);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        for part in [&format!("{}/api/", server.config.prefix), "/livez", "/readyz", "/api/openapi.json"] {
            assert!(reply.body.contains(part), "{part}: {}", reply.body);
        }
        assert!(!reply.body.contains("://"), "an external link: {}", reply.body);
        for link in reply.body.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert_eq!(server.get(link).await.status, StatusCode::OK, "{link}");
        }
        let head = server.send(Request::head("/").body(Body::empty())).await;
        assert_eq!(head.header("content-type"), reply.header("content-type"));
        assert_eq!(server.get("//").await.body, reply.body);
    }
    let server = server().await;
    let post = server.send(Request::post("/").body(Body::empty())).await;
    post.assert_status_error("There is no such API");
    assert_eq!(post.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn other_methods_are_refused_with_the_allowed_ones() {
    let server = server().await;
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let request = Request::builder().method(method).uri(format!("/api/card_from_group_sell?{}", signed_query()));
        let reply = server.send(request.body(Body::empty())).await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.header("allow"), Some("GET, HEAD, POST"));
        reply.assert_status_error("Method is not allowed");
    }
}

#[tokio::test]
async fn head_returns_the_headers_of_get() {
    let server = server().await;
    let uri = format!("/billing/api/card_from_group_sell?{}", signed_query());
    let get = server.get(&uri).await;
    let head = server.send(Request::head(&uri).body(Body::empty())).await;
    assert_eq!(head.body, "");
    assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
    assert_eq!(head.header("content-type"), get.header("content-type"));
}

#[tokio::test]
async fn parameters_come_from_query_and_body() {
    let server = server().await;
    let hash = hash("11", "secret");
    let post = async |uri: &str, form: &str| {
        let request = Request::post(uri).header("content-type", "application/x-www-form-urlencoded; charset=UTF-8");
        server.send(request.body(Body::from(form.to_owned()))).await
    };
    let uri = "/billing/api/card_from_group_sell?u=admin&id=11";
    post(uri, &format!("hash={hash}")).await.assert_page_error("Free cards was not found");
    // The query string overrides the body; within each, the last value counts.
    post(uri, &format!("u=unknown&id=6&hash={hash}")).await.assert_page_error("Free cards was not found");
    post("/billing/api/card_from_group_sell?u=unknown&u=admin", &format!("id=6&id=11&hash=x&hash={hash}"))
        .await
        .assert_page_error("Free cards was not found");
    // A body without a content type is parsed as a form; a body of another type is ignored.
    let untyped = Request::post(uri).body(Body::from(format!("hash={hash}")));
    server.send(untyped).await.assert_page_error("Free cards was not found");
    post_body(&server, "application/xml", "<x/>").await.assert_status_error("Bad login");
    post_body(&server, "text/plain", signed_query()).await.assert_status_error("Bad login");
}

#[tokio::test]
async fn doubled_slashes_count_as_one_in_every_path() {
    let server = server().await;
    assert_eq!(server.get("//livez").await.body, "ok\n");
    let document = server.get("/billing/api/openapi.json").await;
    assert_eq!(document.status, StatusCode::OK);
    assert_eq!(server.get("//billing//api///openapi.json").await.body, document.body);
    // Slashes in the query string are values.
    let query = format!("u=admin&id=11&email=a//b&hash={}", hash("a//b11", "secret"));
    server.get(&format!("//api/card_from_group_sell?{query}")).await.assert_page_error("Free cards was not found");
}

/// The reply keeps its words; the log names the type of the ignored body.
#[tokio::test]
async fn ignored_body_is_logged() {
    let server = server().await;
    let log = LogCapture::start();
    post_body(&server, "text/plain; charset=\u{fc}", signed_query()).await.assert_status_error("Bad login");
    post_body(&server, "text/plain", signed_query()).await.assert_status_error("Bad login");
    assert_eq!(log.count("body of this type ignored"), 1, "{}", log.text());
    assert!(log.text().contains("client=192.0.2.7") && log.text().contains("text/plain"), "{}", log.text());
    assert!(!log.text().contains("hash="), "{}", log.text());
    post_body(&server, "text/plain", "").await.assert_status_error("Bad login");
    post_body(&server, "application/json", "{}").await.assert_status_error("Bad login");
    assert_eq!(log.count("body of this type ignored"), 1);
}

#[tokio::test]
async fn encoded_body_is_refused() {
    let (server, x7) = (server().await, x7_server().await);
    let sale = format!("u=admin&id=6&hash={}", hash("6", "secret"));
    for server in [&server, &x7] {
        let post = async |encoding: &str, body: &str| {
            let request = Request::post("/billing/api/card_from_group_sell")
                .header("content-type", "application/x-www-form-urlencoded")
                .header("content-encoding", encoding);
            server.send(request.body(Body::from(body.to_owned()))).await
        };
        for encoding in ["gzip", "deflate", "br", "identity, gzip"] {
            let reply = post(encoding, &sale).await;
            assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{encoding}");
            reply.assert_status_error("Request body must have no Content-Encoding");
        }
        server.assert_rows("select count(*) from payments", &["0"]).await;
        post("gzip", "").await.assert_status_error("Bad login");
        assert_eq!(post("identity", &sale).await.element_texts("pin").len(), 1);
    }
}

#[tokio::test]
async fn query_string_is_parsed_as_mor_does() {
    let server = server().await;
    let hash = hash("a b+c;&11", "secret");
    for (query, error) in [
        (format!("u=admin;id=11;email=a+b%2Bc%3B%26;hash={hash}"), None),
        (format!("&&u=admin&;id=11&email=a%20b%2bc%3b%26&hash={hash}&"), None),
        (format!("u=admin&id=11&email=a+b%2Bc%3B%26&hash={hash}&zz=%C3%A9&q&=w"), None),
        (format!("u[]=admin&id=11&email=a+b%2Bc%3B%26&hash={hash}"), Some("Bad login")),
        (format!("?u=admin&id=11&email=a+b%2Bc%3B%26&hash={hash}"), Some("Bad login")),
        (format!("u=admin&id=11&email=a+b%2Bc%3B%26&hash[]={hash}"), Some("Incorrect hash")),
    ] {
        let reply = server.get(&format!("/api/card_from_group_sell?{query}")).await;
        match error {
            None => reply.assert_page_error("Free cards was not found"),
            Some(message) => reply.assert_status_error(message),
        }
    }
}

#[tokio::test]
async fn multipart_fields_are_parameters_except_files() {
    let server = server().await;
    let form = |fields: &[(&str, &str)]| {
        let parts = fields
            .iter()
            .map(|(head, value)| format!("--X\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n"));
        parts.collect::<String>() + "--X--\r\n"
    };
    let hash = hash("11", "secret");
    let fields = [("name=\"u\"", "admin"), ("name=\"id\"", "11"), ("name=\"hash\"", hash.as_str())];
    post_body(&server, "multipart/form-data; boundary=X", form(&fields))
        .await
        .assert_page_error("Free cards was not found");
    let file = ("name=\"u\"; filename=\"u.txt\"", "admin");
    post_body(&server, "multipart/form-data; boundary=X", form(&[file])).await.assert_status_error("Bad login");
    for (content_type, text) in [
        ("multipart/form-data", form(&fields)),
        ("multipart/form-data; boundary=Y", form(&fields)),
        ("multipart/form-data; boundary=X", form(&fields).replace("--X--", "")),
        ("multipart/form-data; boundary=X", "--X\r\nnonsense".to_owned()),
    ] {
        let reply = post_body(&server, content_type, text).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{content_type}");
        reply.assert_status_error("Multipart body is malformed");
    }
}

#[tokio::test]
async fn members_of_a_json_object_are_parameters() {
    let server = server().await;
    let json = "application/json; charset=utf-8";
    let hash = hash("1.5011true", "secret");
    let sell = async |id: &str, other_members: &str| {
        let text = format!(r#"{{"u": "admin", "id": {id}, "hash": "{hash}"{other_members}}}"#);
        post_body(&server, json, text).await
    };
    // The value of a number is its text in the body; the value of a boolean is `true` or `false`.
    sell("11", r#", "email": 1.50, "status": true"#).await.assert_page_error("Free cards was not found");
    sell("11", r#", "email": "1.50", "status": "true", "quantity": null, "name": [1], "pin": {}"#)
        .await
        .assert_page_error("Free cards was not found");
    sell("11", r#", "email": 1.5, "status": true"#).await.assert_status_error("Incorrect hash");
    for malformed in ["[1]", "{", "7", "null", "{\"u\":\"\u{1}", "\"u=admin\""] {
        let reply = post_body(&server, json, malformed).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        reply.assert_status_error("JSON body is malformed: it must be an object");
    }
    post_body(&server, json, "").await.assert_status_error("Bad login");
}

/// Optional parameters of changes that are no text: without them, another card would be sold, or a retry would sell
/// twice.
#[tokio::test]
async fn optional_parameters_that_are_no_text_are_refused() {
    let server = server().await;
    let hash = hash("6", "secret");
    let form = "application/x-www-form-urlencoded";
    let multipart = |head: &str| {
        let part =
            |head: &str, value: &str| format!("--X\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n");
        let fields = [("name=\"u\"", "admin"), ("name=\"id\"", "6"), ("name=\"hash\"", &*hash), (head, "42")];
        fields.map(|(head, value)| part(head, value)).concat() + "--X--\r\n"
    };
    let json = |member: &str| format!(r#"{{"u": "admin", "id": 6, "hash": "{hash}", {member}}}"#);
    let requests = [
        (form, format!("u=admin&id=6&hash={hash}&number[]=42")),
        (form, format!("u=admin&id=6&hash={hash}&number=42&request_id%5Ba%5D=k")),
        ("application/json", json(r#""number": ["42"]"#)),
        ("application/json", json(r#""request_id": {"a": "k"}"#)),
        ("application/json", json(r#""payment_ref": []"#)),
        ("multipart/form-data; boundary=X", multipart("name=\"number\"; filename=\"n.txt\"")),
    ];
    for (content_type, body) in requests {
        let reply = post_body(&server, content_type, body.clone()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}: {}", reply.body);
        reply.assert_status_error("A parameter is an array, an object or a file instead of a text");
    }
    server.assert_rows("select count(*) from payments", &["0"]).await;
    // A parameter that the operation does not read.
    let sold = post_body(&server, "application/json", json(r#""shop": {"name": "a"}, "cart": [1]"#)).await;
    assert_eq!(sold.element_texts("number"), ["0000000042"], "{}", sold.body);
}

#[tokio::test]
async fn unreadable_requests_are_refused_and_change_nothing() {
    let server = server_with_settings(&[("max_parameters", "50"), ("max_body", "1000")]).await;
    let form = "application/x-www-form-urlencoded";
    let sale = format!("u=admin&id=6&hash={}", hash("6", "secret"));
    for (text, status, message) in [
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
        let reply = post_body(&server, form, text).await;
        reply.assert_status_error(message);
        assert_eq!(reply.status.as_u16(), status);
    }
    server.assert_rows("select count(*) from payments", &["0"]).await;
    // Exactly as many parameters as the limit allows.
    let fill: String = (0..45).map(|i| format!("&x{i}=")).collect();
    assert_eq!(post_body(&server, form, format!("{sale}{fill}&u=admin&x1=2")).await.element_texts("pin").len(), 1);
}

#[tokio::test]
async fn control_and_non_latin_characters_are_stored_safely() {
    let server = server().await;
    let email = "%01%0D%0ASet-Cookie:%20x%3C%26%22'%3B--%E6%BC%A2%F0%9F%92%B3";
    let hashed = "\u{1}\r\nSet-Cookie: x<&\"';--漢💳6";
    let reply = server.post_signed("card_from_group_sell", &format!("u=admin&id=6&email={email}"), hashed).await;
    assert_eq!(reply.element_texts("pin"), ["0042"]);
    assert_eq!(reply.header("set-cookie"), None);
    server
        .assert_rows("select email = E'\\ufffd\\r\\nSet-Cookie: x<&\"'';--漢💳' as is_equal from ccorders", &["true"])
        .await;
}

/// The hash covers the values as sent. In stored rows, replies and audit rows the characters are replaced.
#[tokio::test]
async fn control_characters_are_hashed_but_not_stored() {
    for server in [server().await, x7_server().await] {
        let sent: String =
            (1..=0x9f).filter_map(char::from_u32).filter(|c| c.is_control()).chain(['\u{fffe}', '\u{ffff}']).collect();
        let escaped = percent_encoding::percent_encode(sent.as_bytes(), percent_encoding::NON_ALPHANUMERIC);
        let stored: String =
            sent.chars().map(|c| if matches!(c, '\t' | '\n' | '\r') { c } else { '\u{fffd}' }).collect();
        server
            .execute(
                "insert into tariffs (name) values ('one'); insert into lcrs (name) values ('one');
                 insert into locations (name) values ('one')",
            )
            .await;
        // In a row.
        let form = format!("u=admin&name=n{escaped}");
        let reply = server.post_signed("cc_group_create", &form, &format!("n{sent}")).await;
        assert_eq!(reply.element_texts("error"), Vec::<&str>::new());
        let name: String = sqlx::query_scalar("select name from cardgroups order by id desc limit 1")
            .fetch_one(&server.pool)
            .await
            .unwrap();
        assert_eq!(name, format!("n{stored}"));
        // In a reply that contains a parameter.
        let callerid =
            format!("7{}", percent_encoding::percent_encode(b"\x01\x1b[2J\x7f", percent_encoding::NON_ALPHANUMERIC));
        let form = format!("u=admin&callerid={callerid}&cardgroup_id=6&amount=1");
        let reply = server.post_signed("card_by_cli_update", &form, "17\u{1}\u{1b}[2J\u{7f}6").await;
        assert_eq!(reply.element_texts("callerid"), ["7\u{fffd}\u{fffd}[2J\u{fffd}"]);
        server.assert_rows("select count(*) from cards where callerid = E'7\\ufffd\\ufffd[2J\\ufffd'", &["1"]).await;
        // In an audit row, which contains the parameter names.
        server.post("card_from_group_sell", "u=admin&%1b%5b2J=1").await.assert_status_error("Incorrect hash");
        server.assert_rows("select data4 from actions where action = 'error'", &["u, \u{fffd}[2J"]).await;
    }
}

/// A password may contain any character.
#[tokio::test]
async fn password_is_checked_as_sent() {
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
    // An idempotency key with a control character is refused.
    let form = "u=admin&id=11&request_id=a%01b";
    assert_eq!(server.post_signed("card_from_group_sell", form, "11").await.status, StatusCode::BAD_REQUEST);
}
