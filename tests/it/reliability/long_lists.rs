//! Long lists are read in pages: a client that reads slowly holds neither a database connection nor a snapshot.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::{StreamExt, TryStreamExt};
use mortise::store::pages::{self, PAGE_ROWS, PageReader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::harness::{FIXTURE_SQL, Reply, Server, hash, postgres, server, server_with_settings, with_timeout};

/// The sessions of the server in which a snapshot is open.
const SNAPSHOTS: &str = "select pid from pg_stat_activity where datname = current_database()
    and application_name = 'mortise' and coalesce(backend_xmin, backend_xid) is not null";

/// Adds cards to group 11, with the numbers from 1000001 on.
async fn add_cards(server: &Server, count: i64) {
    server
        .execute(&format!(
            "insert into cards (cardgroup_id, number, pin)
             select 11, (1000000 + i)::text, (5000000 + i)::text from generate_series(1, {count}) i; analyze cards"
        ))
        .await;
}

fn list_form(parameters: &str) -> String {
    format!("u=admin{parameters}&hash={}", hash("", "secret"))
}

/// Waits until no session of the server has a snapshot.
async fn wait_for_no_snapshot(server: &Server) {
    server.wait_for_rows(SNAPSHOTS, |sessions| sessions.is_empty()).await;
}

/// Sends a request and reads the first bytes of the reply.
async fn start_list(address: SocketAddr, operation: &str) -> TcpStream {
    let form = list_form("");
    let request = format!(
        "POST /billing/api/{operation} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 15];
    with_timeout("the start of the list", client.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    client
}

#[tokio::test]
async fn slow_client_holds_no_snapshot_and_gets_the_whole_list() {
    let server = server_with_settings(&[("database_connections", "2")]).await;
    // 30 MB of XML: more than the buffers of both sockets.
    add_cards(&server, 50_000).await;
    let address = server.listen().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(start_list(address, "calling_cards_get").await);
        wait_for_no_snapshot(&server).await;
        // All connections of the server are free.
        drop(with_timeout("the connections", server.hold_connections()).await);
    }
    for mut client in clients {
        let mut reply = String::new();
        with_timeout("the list", client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.ends_with("</page>\n\r\n0\r\n\r\n"), "{}", &reply[reply.len() - 100..]);
        let numbers = element_texts(&reply, "card_number");
        let added: Vec<_> = numbers.iter().filter(|number| number.len() == 7).collect();
        assert_eq!(added.len(), 50_000);
        assert!(added.is_sorted());
    }
}

/// The texts of an element in a reply with chunked encoding. A chunk may end within an element: such elements are
/// complete once the chunk headers are removed.
fn element_texts(reply: &str, element: &str) -> Vec<String> {
    let mut rest = reply.split_once("\r\n\r\n").unwrap().1;
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&after[..size]);
        rest = after[size..].strip_prefix("\r\n").unwrap();
        if size == 0 {
            break;
        }
    }
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    body.split(open.as_str()).skip(1).map(|rest| rest.split(close.as_str()).next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn slow_client_of_a_list_of_groups_holds_no_snapshot() {
    let server = server().await;
    // With long descriptions: more than the buffers of both sockets.
    server
        .execute(
            "insert into cardgroups (id, name, tax_id, description)
             select 1000 + i, 'group ' || i, 2, repeat('long', 500) from generate_series(1, 10000) i",
        )
        .await;
    let mut client = start_list(server.listen().await, "cc_groups_get").await;
    wait_for_no_snapshot(&server).await;
    let mut reply = String::new();
    with_timeout("the list", client.read_to_string(&mut reply)).await.unwrap();
    let ids: Vec<i32> = element_texts(&reply, "group_id").iter().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids.len(), 10_006);
    assert!(ids.is_sorted());
}

#[tokio::test]
async fn blocked_export_holds_no_snapshot() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = crate::harness::server_on_database(&database, &[]).await;
    add_cards(&server, 20_000).await;
    // Cards without a number come last. Page boundaries fall among both kinds.
    let unnumbered = PAGE_ROWS * 2;
    server
        .execute(&format!(
            "update cards set number = null where cardgroup_id = 11 and number > '{}'; analyze cards",
            1_020_000 - unnumbered
        ))
        .await;
    let url = format!("postgres://postgres@localhost/{database}?host={}", postgres::socket_dir().await.display());
    let mut export = Command::new(env!("CARGO_BIN_EXE_mortise"))
        .args(["cards", "export", "--group", "11"])
        .env("DATABASE_URL", url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = export.stdout.take().unwrap();
    let mut csv = vec![0; 100];
    output.read_exact(&mut csv).unwrap();
    wait_for_no_snapshot(&server).await;
    output.read_to_end(&mut csv).unwrap();
    assert!(export.wait().unwrap().success());
    let csv = String::from_utf8(csv).unwrap();
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let [number, id] = ["number", "id"].map(|name| header.iter().position(|&column| column == name).unwrap());
    let exported: Vec<String> = lines.map(|cells| format!("{}|{}", cells[number], cells[id])).collect();
    let expected = server
        .rows("select coalesce(number, '') as number, id from cards where cardgroup_id = 11 order by cards.number, id")
        .await;
    assert_eq!(exported.len(), 20_000);
    assert!(exported == expected, "the export is not the list of cards, in order");
}

/// Sends a request, and returns the body of the reply, of which the first page has been read from the database.
async fn start_body(server: &Server, parameters: &str) -> axum::body::BodyDataStream {
    let request = Request::post("/billing/api/calling_cards_get").body(Body::from(list_form(parameters))).unwrap();
    let response = server.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    response.into_body().into_data_stream()
}

async fn read_to_end(body: axum::body::BodyDataStream) -> Reply {
    let chunks: Vec<_> = with_timeout("the end of the list", body.try_collect()).await.unwrap();
    let body = String::from_utf8(chunks.concat()).unwrap();
    Reply::new(axum::http::StatusCode::OK, axum::http::HeaderMap::new(), body.into()).unwrap()
}

/// A page shows the cards of the moment in which it is read. When the reply starts, the server has read at most two
/// pages. Each card that exists all the time with the same number is listed once.
#[tokio::test]
async fn changes_between_pages() {
    let server = server().await;
    add_cards(&server, 4 * PAGE_ROWS).await;
    let number = |page: i64, card: i64| (1_000_000 + page * PAGE_ROWS + card).to_string();
    let body = start_body(&server, "&number=1______").await;
    let (sold, deleted, hidden) = (number(2, 50), number(3, 7), number(3, 8));
    server
        .execute(&format!(
            "update cards set sold = 1 where number in ('{}', '{sold}');
             delete from cards where number in ('{}', '{deleted}'); update cards set hidden = 1 where number = '{hidden}';
             insert into cards (cardgroup_id, number, pin) values (6, '1000000', '60'), (11, '1999999', '61')",
            number(0, 1),
            number(0, 2)
        ))
        .await;
    let reply = read_to_end(body).await;
    let numbers = reply.element_texts("card_number");
    // The first page is from before the changes, the third and the fourth from after them.
    let mut expected: Vec<String> = (1..=4 * PAGE_ROWS).map(|card| number(0, card)).collect();
    expected.retain(|number| *number != deleted && *number != hidden);
    expected.push("1999999".to_owned());
    assert!(numbers == expected, "{} cards", numbers.len());
    let sold_flags = reply.element_texts("card_sold");
    let sold_numbers: Vec<_> =
        numbers.iter().zip(sold_flags).filter(|(_, is_sold)| *is_sold == "1").map(|(number, _)| *number).collect();
    assert_eq!(sold_numbers, [sold]);
    // The same list with a filter for free cards: a card that is sold before its page is read is left out.
    let body = start_body(&server, "&number=1______&sold=no").await;
    let sold = number(2, 51);
    server.execute(&format!("update cards set sold = 1 where number = '{sold}'")).await;
    let numbers = read_to_end(body).await;
    assert!(!numbers.element_texts("card_number").contains(&sold.as_str()));
}

/// Lists around the page size, in groups of every kind, have the rows of one query in the order of the contract.
#[tokio::test]
async fn pages_make_up_the_whole_list() {
    let server = server().await;
    // Groups: whole pages, one card more or less, cards without a number at a page's end, over several pages, and as
    // the only cards; many small groups.
    server
        .execute(&format!(
            "insert into cardgroups (id, name, tax_id) select 100 + i, 'group ' || i, 2 from generate_series(0, 299) i;
             insert into cards (cardgroup_id, number, pin, name)
             select 100 + g, case when i <= numbered then (10000000 + 10000 * g + i)::text end, g || '-' || i, 'listed'
             from (values (0, {PAGE_ROWS}, 0), (1, {PAGE_ROWS} - 1, 1), (2, {PAGE_ROWS} - 3, 5), (3, 10, 2 * {PAGE_ROWS}),
                 (4, 0, {PAGE_ROWS} + 1), (5, {PAGE_ROWS} + 1, 0)) sizes (g, numbered, unnumbered),
                 generate_series(1, numbered + unnumbered) i;
             insert into cards (cardgroup_id, number, pin, name)
             select 100 + g, case when i < 9 then (10000000 + 10000 * g + i)::text end, g || '-' || i, 'listed'
             from generate_series(6, 299) g, generate_series(1, 11) i; analyze"
        ))
        .await;
    let order = "from cards where name = 'listed' order by cardgroup_id, cards.number, id";
    let all = server.rows(&format!("select id {order}")).await;
    let reply = server.post("calling_cards_get", &list_form("&name=listed")).await;
    assert!(reply.element_texts("card_id") == all, "the list differs from the table");
    assert_eq!(reply.body.matches("<cards>").count(), 300);
    for (per_page, page) in
        [(PAGE_ROWS, 1), (PAGE_ROWS, 2), (2 * PAGE_ROWS, 2), (2 * PAGE_ROWS + 1, 3), (2 * PAGE_ROWS + PAGE_ROWS / 2, 4)]
    {
        let form = list_form(&format!("&name=listed&per_page={per_page}&page={page}"));
        let reply = server.post("calling_cards_get", &form).await;
        let start = usize::try_from(per_page * (page - 1)).unwrap();
        let end = all.len().min(start + usize::try_from(per_page).unwrap());
        assert!(reply.element_texts("card_id") == all[start..end], "{per_page} cards, page {page}");
    }
    // Exactly two pages and nothing else.
    let form = list_form(&format!("&number=100_____&per_page={}", PAGE_ROWS));
    assert_eq!(server.post("calling_cards_get", &form).await.element_texts("card_id").len() as i64, PAGE_ROWS);
    server
        .execute(&format!(
            "update cards set batch_number = 'two pages'
             where id in (select id {order} limit 2 * {PAGE_ROWS})"
        ))
        .await;
    let reply = server.post("calling_cards_get", &list_form("&batch_number=two+pages")).await;
    assert!(reply.element_texts("card_id") == all[..usize::try_from(2 * PAGE_ROWS).unwrap()]);
}

/// Two rows in each page, without end.
struct EndlessReader(u32);

impl PageReader for EndlessReader {
    type Row = u32;

    async fn next_page(&mut self) -> sqlx::Result<Option<Vec<u32>>> {
        self.0 += 1;
        assert!(self.0 < 10, "the reader fails");
        Ok(Some(vec![self.0, self.0]))
    }
}

/// The first page is always read. A page that is due after the maximum duration is not.
#[tokio::test]
async fn list_ends_after_the_maximum_duration() {
    let rows: Vec<_> = pages::stream_pages(EndlessReader(0), Duration::ZERO).collect().await;
    let [Ok(1), Ok(1), Err(error)] = &rows[..] else { panic!("{rows:?}") };
    assert!(error.to_string().contains("the client took longer than 0 s for the list"), "{error}");
}

/// Without this, the list would look complete.
#[tokio::test]
async fn panic_of_the_reader_is_an_error_of_the_list() {
    let rows: Vec<_> = pages::stream_pages(EndlessReader(0), Duration::MAX).collect().await;
    assert_eq!(rows.len(), 19);
    assert!(matches!(rows.last(), Some(Err(sqlx::Error::WorkerCrashed))), "{:?}", rows.last());
}
