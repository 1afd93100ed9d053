//! How a body with a large document is received (`tariff_retail_import.md`, "Size").

use std::path::Path;

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures_util::stream::{self, StreamExt};

use crate::harness::{Reply, Server, hash, server_with_settings};

/// The request without a document.
fn uri(hash: &str) -> String {
    format!("/billing/api/tariff_retail_import?u=admin&hash={hash}")
}

fn valid_uri() -> String {
    uri(&hash("", "secret"))
}

/// A document of at least `bytes` bytes with one unknown destination at its end.
fn large_document(bytes: usize) -> String {
    let space = "<x>               </x>\n".repeat(bytes / 23 + 1);
    format!(
        "<tariff>{space}<id>0</id><name>Large</name><destinations><destination>\
         <destination_group_name>no+group</destination_group_name></destination></destinations></tariff>"
    )
}

/// A body that arrives in chunks of this size, without a length.
fn chunked(text: String, size: usize) -> Body {
    let chunks: Vec<Bytes> = text.into_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
    Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
}

/// A body of which no more than this arrives.
fn chunked_without_end(text: String, size: usize) -> Body {
    Body::from_stream(chunked(text, size).into_data_stream().chain(stream::pending()))
}

async fn post(server: &Server, uri: &str, body: Body) -> Reply {
    server.send(Request::post(uri).body(body)).await
}

#[track_caller]
fn assert_imported(reply: &Reply) {
    assert_eq!(reply.element_texts("destination_group_name"), ["no group"], "{reply:?}");
}

#[tokio::test]
async fn a_large_document_is_received_in_any_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let server = server_with_settings(&[("temp_dir", directory.path().to_str().unwrap())]).await;
    let form = format!("a=b&xml={}", large_document(3 * 1024 * 1024));
    for (index, size) in [form.len(), 1_500_000, 4_093].into_iter().enumerate() {
        // The tariff exists after the first import.
        let form = form.replace("<id>0<", &format!("<id>{}<", if index == 0 { 0 } else { 1 }));
        assert_imported(&post(&server, &valid_uri(), chunked(form, size)).await);
    }
    let small = format!("xml={}", large_document(100).replace("<id>0<", "<id>1<").replace('<', "%3c"));
    assert_imported(&post(&server, &valid_uri(), chunked(small, 1)).await);
    let multipart = format!(
        "--b\r\ncontent-disposition: form-data; name=\"xml\"\r\n\r\n{}\r\n--b--\r\n",
        large_document(3 * 1024 * 1024).replace("<id>0<", "<id>1<").replace('+', " ")
    );
    let request = Request::post(valid_uri()).header("content-type", "multipart/form-data; boundary=b");
    assert_imported(&server.send(request.body(chunked(multipart, 10_000))).await);
    let small = "--b\r\ncontent-disposition: form-data; name=\"xml\"\r\n\r\n<tariff><id>1</id><name>Large</name>\
                 <destinations><destination><destination_group_name>no group</destination_group_name></destination>\
                 </destinations></tariff>\r\n--b--\r\n";
    let request = Request::post(valid_uri()).header("content-type", "multipart/form-data; boundary=b");
    assert_imported(&server.send(request.body(chunked(small.to_owned(), 1))).await);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn limits_of_the_body() {
    let settings = [("max_import_body", "2000000"), ("max_body", "1000"), ("body_timeout_ms", "1000")];
    let server = server_with_settings(&settings).await;
    let form = format!("xml={}", large_document(1_900_000));
    assert_imported(&post(&server, &valid_uri(), chunked(form, 100_000)).await);
    let too_large = format!("xml={}", large_document(2_100_000));
    for body in [Body::from(too_large.clone()), chunked(too_large, 100_000)] {
        let reply = post(&server, &valid_uri(), body).await;
        reply.assert_status_error("Request is too large");
        assert_eq!((reply.status.as_u16(), reply.header("connection")), (413, Some("close")));
    }
    // Other parameters, and a document in JSON, have the usual limit.
    let reply = post(&server, &valid_uri(), format!("a={}", "b".repeat(1_000)).into()).await;
    assert_eq!(reply.status, 413);
    let json = format!("{{\"xml\": \"{}\"}}", "b".repeat(1_000));
    let request = Request::post(valid_uri()).header("content-type", "application/json").body(json.into());
    assert_eq!(server.send(request).await.status, 413);
    // A body that stops.
    let silent = Body::from_stream(stream::iter([Ok::<_, std::io::Error>("xml=<tariff>")]).chain(stream::pending()));
    assert_eq!(post(&server, &valid_uri(), silent).await.status, 408);
}

/// What is not yet known to be a field stays in memory.
#[tokio::test]
async fn a_multipart_form_without_fields_is_refused_early() {
    let server = server_with_settings(&[("body_timeout_ms", "3000")]).await;
    let endless_field = format!("--b\r\ncontent-disposition: form-data; name=\"{}", "x".repeat(3 * 1024 * 1024));
    for text in ["x".repeat(3 * 1024 * 1024), endless_field, "x".repeat(200_000)] {
        let request = Request::post(valid_uri()).header("content-type", "multipart/form-data; boundary=b");
        let reply = server.send(request.body(chunked_without_end(text, 100_000))).await;
        reply.assert_status_error("Multipart body is malformed");
        assert_eq!(reply.status, 400);
    }
}

/// The names of fields stay in memory, also of fields without a value.
#[tokio::test]
async fn the_names_of_multipart_fields_have_a_limit() {
    let server = server_with_settings(&[("max_body", "100000")]).await;
    let field = |name: &str| format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n\r\n");
    for (fields, status) in [(3, 413), (2, 200)] {
        let text: String = ["x", "y", "z"][..fields].iter().map(|name| field(&name.repeat(40_000))).collect();
        let body = chunked(text + "--b--\r\n", 20_000);
        let request = Request::post(valid_uri()).header("content-type", "multipart/form-data; boundary=b").body(body);
        assert_eq!(server.send(request).await.status, status, "{fields}");
    }
}

/// A client that is still sending may not receive a reply: what follows an error is read before it is sent.
#[tokio::test]
async fn the_body_is_read_behind_an_error() {
    let server = server_with_settings(&[]).await;
    let multipart = "--b\r\ncontent-disposition: form-data; name=\"xml\"\r\n\r\n\0".repeat(2);
    for (content_type, first) in
        [("application/x-www-form-urlencoded", "xml=%00&x=".to_owned()), ("multipart/form-data; boundary=b", multipart)]
    {
        let (read_end, is_read) = tokio::sync::oneshot::channel();
        let filler = Bytes::from_static(&[b'a'; 20_000]);
        let chunks =
            stream::iter([Ok::<_, std::io::Error>(Bytes::from(first)), Ok(filler.clone()), Ok(filler.clone())]);
        let end = stream::once(async move {
            _ = read_end.send(());
            Ok(filler)
        });
        let request = Request::post(valid_uri()).header("content-type", content_type);
        let reply = server.send(request.body(Body::from_stream(chunks.chain(end)))).await;
        assert_eq!(reply.status, 400, "{reply:?}");
        is_read.await.unwrap();
    }
}

/// A body without an end is not read for a request whose user and hash in the query string are refused.
#[tokio::test]
async fn the_admission_precedes_the_body() {
    let server = server_with_settings(&[("body_timeout_ms", "0")]).await;
    let endless =
        || Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'a'; 65_536]))));
    post(&server, &uri("0"), endless()).await.assert_status_error("Incorrect hash");
    let reply = post(&server, "/api/tariff_retail_import?u=unknown&hash=0", endless()).await;
    assert_eq!(reply.element_texts("error"), ["Bad login"]);
    let silent = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    post(&server, &uri("0"), silent()).await.assert_status_error("Incorrect hash");
    // A client that waits for 100 Continue has not sent the body.
    let request = Request::post(uri("0")).header("expect", "100-continue").body(silent());
    server.send(request).await.assert_status_error("Incorrect hash");
    // In the body, they are checked before the document is parsed.
    let reply = post(&server, "/api/tariff_retail_import", "u=admin&hash=0&xml=<".into()).await;
    reply.assert_status_error("Incorrect hash");
}

#[tokio::test]
async fn a_password_in_the_body_counts() {
    let form = |password: &str| format!("p={password}&xml={}", large_document(100));
    for required in ["true", "false"] {
        let server = server_with_settings(&[("require_password", required)]).await;
        let reply = post(&server, &valid_uri(), form("wrong").into()).await;
        assert_eq!(reply.element_texts("error"), ["Bad login"]);
        server.assert_rows("select count(*) from tariffs", &["0"]).await;
        assert_imported(&post(&server, &valid_uri(), form("secret+password").into()).await);
    }
    // x7 does not compare it, unless it is required.
    let x7 = server_with_settings(&[("dialect", "x7")]).await;
    assert_imported(&post(&x7, &valid_uri(), form("wrong").into()).await);
}

/// Clients that send slowly, with or without the user in the query string, use up neither the permits of requests nor
/// those of other operations.
#[tokio::test(flavor = "multi_thread")]
async fn slow_uploads_hold_no_request_permit() {
    let settings = [("max_requests", "2"), ("import_concurrency", "2"), ("body_timeout_ms", "3600000")];
    let server = server_with_settings(&settings).await;
    let form = format!("xml={}", large_document(100));
    let in_body = format!("u=admin&hash={}&{form}", hash("", "secret"));
    let mut uploads = Vec::new();
    for (uri, form) in [(valid_uri(), &form), ("/api/tariff_retail_import".to_owned(), &in_body)] {
        uploads.push(PausedUpload::start(&server, &uri, form, 30).await);
    }
    let reply = server.post_signed("card_group_get", "u=admin&id=6", "6").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    for upload in uploads {
        let reply = upload.finish().await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let page = server.metrics().await;
    assert!(page.contains("mortise_requests_in_flight 0\n"), "{page}");
}

/// Large bodies of clients whose user is not known yet take no permit from the imports of admitted users.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_before_the_admission_take_no_import_permit() {
    let settings = [("import_concurrency", "1"), ("body_timeout_ms", "3600000")];
    let server = server_with_settings(&settings).await;
    let in_body = format!("u=admin&hash={}&xml={}", hash("", "secret"), large_document(2_500_000));
    let upload = PausedUpload::start(&server, "/api/tariff_retail_import", &in_body, 2_200_000).await;
    assert_imported(&post(&server, &valid_uri(), format!("xml={}", large_document(3_000_000)).into()).await);
    // Another one of the same kind.
    post(&server, "/api/tariff_retail_import", in_body.clone().into())
        .await
        .assert_status_error("Too many requests at once");
    let reply = upload.finish().await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// An upload can last for hours. What counts is who may import at its end.
#[tokio::test(flavor = "multi_thread")]
async fn the_admission_is_repeated_behind_the_body() {
    let server = server_with_settings(&[("body_timeout_ms", "3600000")]).await;
    let form = format!("xml={}", large_document(100));
    let upload = PausedUpload::start(&server, &valid_uri(), &form, 30).await;
    server.execute("update conflines set value = 'new' where name = 'API_Secret_Key' and owner_id = 0").await;
    upload.finish().await.assert_status_error("Incorrect hash");
    let page = server.metrics().await;
    assert!(page.contains("mortise_requests_in_flight 0\n"), "{page}");
    server.assert_rows("select count(*) from tariffs", &["0"]).await;
}

/// A request whose body stops until the test sends its rest.
struct PausedUpload {
    reply: tokio::task::JoinHandle<Reply>,
    send_rest: tokio::sync::oneshot::Sender<Bytes>,
    rest: Bytes,
}

impl PausedUpload {
    /// Sends the first bytes of a form, and returns when the server waits for more.
    async fn start(server: &Server, uri: &str, form: &str, first_bytes: usize) -> Self {
        let form = Bytes::copy_from_slice(form.as_bytes());
        let (first, rest) = (form.slice(..first_bytes), form.slice(first_bytes..));
        let (polled, is_polled) = tokio::sync::oneshot::channel();
        let (send_rest, rest_sent) = tokio::sync::oneshot::channel();
        let remainder = stream::once(async move {
            polled.send(()).unwrap();
            rest_sent.await.map_err(std::io::Error::other)
        });
        let body = Body::from_stream(stream::iter([Ok(first)]).chain(remainder));
        let (server, uri) = (server.clone(), uri.to_owned());
        let reply = tokio::spawn(async move { post(&server, &uri, body).await });
        is_polled.await.unwrap();
        Self { reply, send_rest, rest }
    }

    async fn finish(self) -> Reply {
        self.send_rest.send(self.rest).unwrap();
        self.reply.await.unwrap()
    }
}

/// A client that goes away in the middle of its upload leaves nothing, and its permit is free again.
#[tokio::test]
async fn an_incomplete_body_changes_nothing() {
    let server = server_with_settings(&[("import_concurrency", "1")]).await;
    let form = format!("xml={}", large_document(3_000_000));
    for uri in [valid_uri(), format!("/api/tariff_retail_import?u=admin&test=1&x={}", hash("", "secret"))] {
        let chunks = [Ok(Bytes::copy_from_slice(&form.as_bytes()[..2_500_000])), Err(std::io::Error::other("gone"))];
        let reply = post(&server, &uri, Body::from_stream(stream::iter(chunks))).await;
        reply.assert_status_error("Request body is incomplete");
    }
    server.assert_rows("select count(*) from tariffs", &["0"]).await;
    assert_imported(&post(&server, &valid_uri(), form.into()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_imports_than_allowed_are_refused() {
    let server = server_with_settings(&[("import_concurrency", "1")]).await;
    server.execute("insert into tariffs (id, name) values (1, 'Large')").await;
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from tariffs for update").execute(&mut *lock).await.unwrap();
    let form = format!("xml={}", large_document(100).replace("<id>0<", "<id>1<"));
    let waiting = tokio::spawn({
        let (server, form) = (server.clone(), form.clone());
        async move { post(&server, &valid_uri(), form.into()).await }
    });
    server.wait_for_lock_waiter().await;
    let in_body = format!("u=admin&hash={}&{form}", hash("", "secret"));
    for (uri, form) in [(valid_uri(), &form), ("/api/tariff_retail_import".to_owned(), &in_body)] {
        let reply = post(&server, &uri, form.clone().into()).await;
        reply.assert_status_error("Too many requests at once");
        assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, Some("1")));
    }
    lock.commit().await.unwrap();
    assert_imported(&waiting.await.unwrap());
    assert_imported(&post(&server, &valid_uri(), form.into()).await);
}

/// A reply that is not read yet holds its lists: it counts as an import.
#[tokio::test]
async fn a_large_reply_holds_the_permit_of_its_import() {
    let server = server_with_settings(&[("import_concurrency", "1")]).await;
    let unknown = "<destination><destination_group_name>no+group</destination_group_name></destination>".repeat(5_000);
    let form = format!("xml=<tariff><id>0</id><name>Large</name><destinations>{unknown}</destinations></tariff>");
    let mut request = Request::post(valid_uri()).body(Body::from(form)).unwrap();
    request.headers_mut().insert("host", "shop.test".parse().unwrap());
    let client = std::net::SocketAddr::from(([192, 0, 2, 7], 4711));
    request.extensions_mut().insert(axum::extract::ConnectInfo(client));
    let unread = tower::ServiceExt::oneshot(server.router.clone(), request).await.unwrap();
    assert_eq!(unread.status(), 200);
    let other = || async { post(&server, &valid_uri(), format!("xml={}", large_document(100)).into()).await };
    other().await.assert_status_error("Too many requests at once");
    drop(unread);
    assert_eq!(other().await.status, 200);
}

/// The files in this directory that the test process has open. They have no names.
#[cfg(target_os = "linux")]
fn open_files(directory: &Path) -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(directory)).count()
}

/// A reply that is replayed from the database is in memory only while it is read from there.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_replayed_reply_is_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let server = server_with_settings(&[("temp_dir", directory.path().to_str().unwrap())]).await;
    // Letters that cannot be compressed much.
    let mut random = fastrand::Rng::with_seed(1);
    let unknown: String = (0..4)
        .map(|_| (0..500_000).map(|_| random.alphanumeric()).collect::<String>())
        .map(|name| format!("<destination><destination_group_name>{name}</destination_group_name></destination>"))
        .collect();
    let form = format!("xml=<tariff><id>0</id><name>Large</name><destinations>{unknown}</destinations></tariff>");
    let uri = valid_uri() + "&request_id=a";
    let first = post(&server, &uri, form.clone().into()).await;
    assert_eq!(first.element_texts("destination_group_name").len(), 4, "{}", first.status);
    assert_eq!(open_files(directory.path()), 0);

    let mut request = Request::post(&uri).body(Body::from(form)).unwrap();
    request.headers_mut().insert("host", "shop.test".parse().unwrap());
    let client = std::net::SocketAddr::from(([192, 0, 2, 7], 4711));
    request.extensions_mut().insert(axum::extract::ConnectInfo(client));
    let replayed = tower::ServiceExt::oneshot(server.router.clone(), request).await.unwrap();
    assert_eq!(replayed.headers().get("idempotency-replayed").unwrap(), "true");
    // The document's own file is closed when the reply is known.
    assert_eq!(open_files(directory.path()), 1);
    let body = axum::body::to_bytes(replayed.into_body(), usize::MAX).await.unwrap();
    assert!(body == first.bytes, "{} bytes, first {}", body.len(), first.bytes.len());
    assert_eq!(open_files(directory.path()), 0);
}

#[test]
fn a_directory_that_cannot_be_written_is_found_out() {
    assert!(mortise::spool::check_directory(Path::new("/nonexistent")).is_err());
    assert!(mortise::spool::check_directory(&std::env::temp_dir()).is_ok());
}
