//! `tariff_retail_import` (`endpoints/tariff_retail_import.md`).

use std::io::Write;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use mortise::dialect::Dialect;
use mortise::operations::tariff::retail_import::document::{Destination, Head};
use mortise::operations::tariff::retail_import::import::{check, import as import_document};
use mortise::operations::tariff::retail_import::order::Import;
use mortise::operations::tariff::retail_import::refusals::{Counts, Imported, Refusals};
use mortise::operations::tariff::retail_import::report::{Outcome, Report};
use mortise::operations::tariff::retail_import::rules::Decision;
use mortise::spool::{Spool, Spooled};
use mortise::store::change_log::Author;
use mortise::xml::XmlReply;
use proptest::prelude::*;
use sqlx::Connection;
use tokio::runtime::Runtime;

use crate::harness::{Reply, Server, hash, server, server_with_settings, x7_server, xml};

const IMPORT: &str = "tariff_retail_import";
const ROWS: &str = "select r.tariff_id, g.name, a.\"from\", a.duration, a.artype, a.round, a.price, a.start_time, a.end_time, a.daytype
                    from aratedetails a join rates r on r.id = a.rate_id join destinationgroups g on g.id = r.destinationgroup_id
                    order by a.id";
const TARIFFS: &str =
    "select id, name, purpose, owner_id, currency, code_deck_id from tariffs where id > 100 order by id";

async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into tariffs (id, name, purpose, owner_id, currency, last_update_date) values
                 (1, 'Retail', 'user', 0, 'USD', '2020-01-01'), (2, 'Wholesale', 'user_wholesale', 0, 'EUR', '2020-01-01'),
                 (3, 'Reseller', 'user', 3, 'USD', '2020-01-01');
             insert into destinationgroups (id, name) values (1, 'Lithuania - Fixed'), (2, 'Lithuania - Mobile'),
                 (3, 'Latvia - Fixed  '), (4, 'latvia - FIXED'), (5, 'Ärzte & Co');
             insert into acc_rights (id, name) values (3, 'Tariff_manage');
             insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 3, 2), (2, 3, 1);
             select setval('tariffs_id_seq', 100), setval('destinationgroups_id_seq', 100)",
        )
        .await;
}

/// A rate as XML, from `price round duration type start end day`; `-` is an empty text.
fn rate(text: &str) -> String {
    let names =
        ["rate_price", "rate_round_by", "rate_duration", "rate_type", "rate_start_time", "rate_end_time", "day_type"];
    let text_of = |value| if value == "-" { "" } else { value };
    let fields = names.iter().zip(text.split(' '));
    let fields: String = fields.map(|(name, value)| format!("<{name}>{}</{name}>", text_of(value))).collect();
    format!("<rates>{fields}</rates>")
}

const ALL_DAY: &str = "0.5 60 -1 minute 00:00:00 23:59:59 -";

fn destination(name: &str, rates: &[&str]) -> String {
    let rates: String = rates.iter().map(|text| rate(text)).collect();
    format!(
        "<destination><destination_group_name>{name}</destination_group_name>\
         <destination_group_type>FIX</destination_group_type>{rates}</destination>"
    )
}

fn tariff(id: &str, name: &str, destinations: &[String]) -> String {
    format!("<tariff><id>{id}</id><name>{name}</name><destinations>{}</destinations></tariff>", destinations.concat())
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

async fn import_as(server: &Server, user: &str, document: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    server.post(IMPORT, &format!("u={user}&hash={}&xml={}", hash("", key), encoded(document))).await
}

async fn import(server: &Server, document: &str) -> Reply {
    import_as(server, "admin", document).await
}

#[track_caller]
fn assert_error(reply: &Reply, message: &str) {
    reply.assert_body(&format!("<response>\n  <error>{message}</error>\n</response>"));
}

/// The reply without entries.
fn reply_of(id: &str, name: &str) -> String {
    format!(
        "<response>
          <tariff_id>{id}</tariff_id>
          <tariff_name>{name}</tariff_name>
          <bad_destinations>
          </bad_destinations>
          <destination_with_day_type_collision>
          </destination_with_day_type_collision>
          <destination_with_bad_rates>
          </destination_with_bad_rates>
          <destination_with_time_collisions_in_xml>
          </destination_with_time_collisions_in_xml>
          <destination_with_time_collisions_in_db>
          </destination_with_time_collisions_in_db>
        </response>"
    )
    .replace("\n        ", "\n")
}

#[tokio::test]
async fn creates_a_tariff() {
    let server = server().await;
    insert_fixtures(&server).await;
    let rates = ["0.5 60 60 minute 00:00:00 23:59:59 -", "-0.1234567890123456 1 -1 minute 00:00:00 23:59:59 -"];
    let destinations = [destination("LITHUANIA - fixed ", &rates), destination("latvia - fixed", &[ALL_DAY])];
    let reply = import_as(
        &server,
        "reseller",
        &tariff("999", "New & <good>", &destinations).replace("& <good>", "&amp; &lt;good&gt;"),
    )
    .await;
    reply.assert_body(&reply_of("101", "New &amp; &lt;good&gt;"));
    // The reseller's own currency.
    server.assert_rows(TARIFFS, &["101|New & <good>|user|3|EUR|1"]).await;
    server
        .assert_rows(
            ROWS,
            &[
                "101|Lithuania - Fixed|1|60|minute|60|0.500000000000000|00:00:00|23:59:59|",
                "101|Lithuania - Fixed|61|-1|minute|1|-0.123456789012346|00:00:00|23:59:59|",
                // The lowest id of a name that stands twice.
                "101|Latvia - Fixed  |1|-1|minute|60|0.500000000000000|00:00:00|23:59:59|",
            ],
        )
        .await;
    server
        .assert_rows(
            "select destination_id, ghost_min_perc, effective_from, prefix from rates",
            &["0|0.000000000000000|∅|∅", "0|0.000000000000000|∅|∅"],
        )
        .await;
    server
        .assert_rows(
            "select last_update_date > now() - interval '1 minute' as now from tariffs where id = 101",
            &["true"],
        )
        .await;
    server
        .assert_rows(
            "select who, what, target_id, target_name, before, after ->> 'rates_written' as written, after ->> 'is_new' as new
             from change_log",
            &["reseller|tariff|101|New & <good>|∅|3|true"],
        )
        .await;
}

#[tokio::test]
async fn adds_rates_to_a_tariff() {
    let server = server().await;
    insert_fixtures(&server).await;
    let first = "0.5 60 60 event 08:00:00 17:59:59 WD";
    let document = tariff("1", "Retail", &[destination("Lithuania - Fixed", &[first])]);
    import(&server, &document).await.assert_body(&reply_of("1", "Retail"));
    let second = "1.5 1 24 minute 08:00:00 17:59:59 WD";
    let third = "0 0 -1 minute 18:00:00 24:00:00 WD";
    let document = tariff(" 1x", "Retail", &[destination("Lithuania - Fixed", &[second, third])]);
    import(&server, &document).await.assert_body(&reply_of("1", "Retail"));
    server
        .assert_rows(
            ROWS,
            &[
                "1|Lithuania - Fixed|1|60|event|60|0.500000000000000|08:00:00|17:59:59|WD",
                "1|Lithuania - Fixed|61|24|minute|1|1.500000000000000|08:00:00|17:59:59|WD",
                "1|Lithuania - Fixed|1|-1|minute|0|0.000000000000000|18:00:00|24:00:00|WD",
            ],
        )
        .await;
    server.assert_rows("select count(*) from rates", &["1"]).await;
    // What writes nothing is not in the change log.
    import(&server, &tariff("1", "Retail", &[destination("no group", &[ALL_DAY])])).await;
    server
        .assert_rows(
            "select who, user_id, what, target_id, target_name, before, after ->> 'rates_written' as written,
                 request_id is not null as has_id
             from change_log order by id",
            &["admin|0|tariff|1|Retail|∅|1|true", "admin|0|tariff|1|Retail|∅|2|true"],
        )
        .await;
    server.assert_rows("select last_update_date from tariffs where id = 1", &["2020-01-01T00:00:00"]).await;
}

/// In both dialects: every list, then what is written.
#[tokio::test]
async fn lists_what_is_not_written() {
    let destinations = |server: Server| async move {
        insert_fixtures(&server).await;
        server
            .execute(
                "insert into rates (id, tariff_id, destinationgroup_id) values (50, 1, 2), (51, 1, 5);
                 insert into aratedetails (rate_id, \"from\", duration, artype, round, start_time, end_time, daytype) values
                     (50, 1, -1, 'minute', 1, '08:00:00', '17:00:00', 'WD'), (51, 1, 60, 'minute', 1, null, null, null)",
            )
            .await;
        let document = tariff(
            "1",
            "Retail",
            &[
                destination("No &amp; group", &[ALL_DAY]),
                destination("", &[]),
                destination(
                    "Lithuania - Mobile",
                    &["1 1 -1 minute 00:00:00 24:00:00 -", "1 1 -1 minute 17:00:00 18:00:00 WD"],
                ),
                destination(
                    "Lithuania - Fixed",
                    &[
                        "abc 60 -1 minute 00:00:00 23:59:59 -",
                        ALL_DAY,
                        "0.7 60 60 minute 00:00:00 23:59:59 -",
                        "0.7 60 60 minute 00:00:00 23:59:59 FD",
                    ],
                ),
                destination(
                    "Latvia - Fixed",
                    &["0 1 -1 minute 00:00:00 12:00:00 -", "0 1 -1 minute 10:00:00 20:00:00 -"],
                ),
                destination("ärzte &amp; co", &["1 1 -1 minute 00:00:00 24:00:00 WD"]),
                destination("ärzte &amp; co", &[ALL_DAY]),
                destination("Lithuania - Mobile", &["1 1 -1 minute 16:00:00 18:00:00 WD"]),
            ],
        );
        let reply = import(&server, &document).await;
        // The row without times is in no chain.
        server
            .assert_rows(
                ROWS,
                &[
                    "1|Lithuania - Mobile|1|-1|minute|1|0.000000000000000|08:00:00|17:00:00|WD",
                    "1|Ärzte & Co|1|60|minute|1|0.000000000000000|∅|∅|∅",
                    "1|Lithuania - Fixed|1|-1|minute|60|0.500000000000000|00:00:00|23:59:59|",
                    "1|Ärzte & Co|1|-1|minute|60|0.500000000000000|00:00:00|23:59:59|",
                ],
            )
            .await;
        reply
    };
    let reply = destinations(x7_server().await).await;
    reply.assert_body(
        "
        <response>
          <tariff_id>1</tariff_id>
          <tariff_name>Retail</tariff_name>
          <bad_destinations>
            <destination>
              <destination_group_name>No &amp; group</destination_group_name>
            </destination>
            <destination>
              <destination_group_name></destination_group_name>
            </destination>
          </bad_destinations>
          <destination_with_day_type_collision>
            <destination>
              <destination_group_name>Lithuania - Mobile</destination_group_name>
            </destination>
            <destination>
              <destination_group_name>ärzte &amp; co</destination_group_name>
            </destination>
          </destination_with_day_type_collision>
          <destination_with_bad_rates>
            <destination>
              <destination_group_name>Lithuania - Fixed</destination_group_name>
              <rate_price>abc</rate_price>
              <rate_round_by>60</rate_round_by>
              <rate_duration>-1</rate_duration>
              <rate_type>minute</rate_type>
              <rate_start_time>00:00:00</rate_start_time>
              <rate_end_time>23:59:59</rate_end_time>
              <day_type></day_type>
            </destination>
          </destination_with_bad_rates>
          <destination_with_time_collisions_in_xml>
            <destination>
              <collision_in_time_range>Lithuania - Mobile COLLISION IN 00:00:00 AND 24:00:00 TIME RANGE </collision_in_time_range>
            </destination>
            <destination>
              <collision_in_time_range>Latvia - Fixed COLLISION IN 00:00:00 AND 20:00:00 TIME RANGE </collision_in_time_range>
            </destination>
          </destination_with_time_collisions_in_xml>
          <destination_with_time_collisions_in_db>
            <destination>
              <collision_in_time_range>Lithuania - Mobile COLLISION WITH EXISTING RATES IN 08:00:00 AND 18:00:00 TIME RANGE</collision_in_time_range>
            </destination>
          </destination_with_time_collisions_in_db>
        </response>",
    );
    // The rates that x7 drops without a word are listed too.
    destinations(server().await).await.assert_body(
        "
        <response>
          <tariff_id>1</tariff_id>
          <tariff_name>Retail</tariff_name>
          <bad_destinations>
            <destination_group_name>No &amp; group</destination_group_name>
            <destination_group_type>FIX</destination_group_type>
            <destination_group_name></destination_group_name>
            <destination_group_type>FIX</destination_group_type>
          </bad_destinations>
          <destination_with_day_type_collision>
            <destination_group_name>Lithuania - Mobile</destination_group_name>
            <destination_group_type>FIX</destination_group_type>
            <destination_group_name>Lithuania - Fixed</destination_group_name>
            <destination_group_type>FIX</destination_group_type>
            <destination_group_name>ärzte &amp; co</destination_group_name>
            <destination_group_type>FIX</destination_group_type>
          </destination_with_day_type_collision>
          <destination_with_bad_rates>
            <destination_group_name>Lithuania - Fixed</destination_group_name>
            <destination_group_type>FIX</destination_group_type>
            <rate_price>abc</rate_price>
            <rate_round_by>60</rate_round_by>
            <rate_duration>-1</rate_duration>
            <rate_type>minute</rate_type>
            <rate_start_time>00:00:00</rate_start_time>
            <rate_end_time>23:59:59</rate_end_time>
            <day_type></day_type>
            <destination_group_name>Lithuania - Fixed</destination_group_name>
            <destination_group_type>FIX</destination_group_type>
            <rate_price>0.7</rate_price>
            <rate_round_by>60</rate_round_by>
            <rate_duration>60</rate_duration>
            <rate_type>minute</rate_type>
            <rate_start_time>00:00:00</rate_start_time>
            <rate_end_time>23:59:59</rate_end_time>
            <day_type></day_type>
          </destination_with_bad_rates>
          <destination_with_time_collisions_in_xml>
            <collision_in_time_range>Lithuania - Mobile COLLISION IN 00:00:00 AND 24:00:00 TIME RANGE </collision_in_time_range>
            <collision_in_time_range>Latvia - Fixed COLLISION IN 00:00:00 AND 20:00:00 TIME RANGE </collision_in_time_range>
          </destination_with_time_collisions_in_xml>
          <destination_with_time_collisions_in_db>
            <collision_in_time_range>Lithuania - Mobile COLLISION WITH EXISTING RATES IN 08:00:00 AND 18:00:00 TIME RANGE</collision_in_time_range>
          </destination_with_time_collisions_in_db>
        </response>",
    );
}

#[tokio::test]
async fn no_destinations() {
    let server = server().await;
    insert_fixtures(&server).await;
    for (document, id) in [
        (tariff("0", "Empty", &[]), "101"),
        ("<tariff><id>101</id><name>Empty</name></tariff>".to_owned(), "101"),
        (tariff("101", "Empty", &["text<x/>".to_owned()]), "101"),
    ] {
        import(&server, &document).await.assert_body(&format!(
            "<response>\n  <error>No destinations!</error>\n  <tariff_id>{id}</tariff_id>\n  <tariff_name>Empty</tariff_name>\n</response>"
        ));
    }
    server.assert_rows(TARIFFS, &["101|Empty|user|0|USD|1"]).await;
    // A destination without rates is no error.
    import(&server, &tariff("101", "Empty", &[destination("Lithuania - Fixed", &[])]))
        .await
        .assert_body(&reply_of("101", "Empty"));
    server.assert_rows("select count(*) from rates", &["0"]).await;
}

#[tokio::test]
async fn refusals() {
    let (server, x7) = (server_with_settings(&[("max_import_rates", "3")]).await, x7_server().await);
    insert_fixtures(&server).await;
    insert_fixtures(&x7).await;
    let one = [destination("Lithuania - Fixed", &[ALL_DAY])];
    let four = [destination("Lithuania - Fixed", &[ALL_DAY; 4])];
    for (document, message) in [
        (" ".to_owned(), "Bad XML data"),
        ("<a></b>".to_owned(), "Bad XML data"),
        ("<tariff><id>1</id><id>1</id></tariff>".to_owned(), "Bad XML data"),
        // The rest of a document counts too.
        (tariff("1", "Retail", &one) + "<tariff/>", "Bad XML data"),
        (tariff("", "", &one), "No tariff id"),
        (tariff(" ", "Retail", &one), "No tariff id"),
        (tariff("1", "\n", &one), "No tariff name"),
        (tariff("3", "Retail", &one), "Tariff belongs to other user!"),
        (tariff("1", "retail", &one), "TARIFF NAME WITH THIS ID DO NOT MATCH !!!FOUND Retail"),
        (tariff("1", " Retail", &one), "TARIFF NAME WITH THIS ID DO NOT MATCH !!!FOUND Retail"),
        (tariff("999", "Retail", &one), "TARIFF with same name exists, ID:1!!! CHANGE NAME OR ID"),
        (tariff("-1", "Wholesale", &one), "TARIFF with same name exists, ID:2!!! CHANGE NAME OR ID"),
    ] {
        assert_error(&import(&server, &document).await, message);
        assert_error(&import(&x7, &document).await, message);
    }
    let too_long = tariff("0", &"é".repeat(256), &one);
    assert_error(&import(&server, &too_long).await, "Tariff name is too long");
    assert_eq!(import(&x7, &too_long).await.element_texts("tariff_name"), ["é".repeat(255)]);
    assert_error(&import(&server, &tariff("2", "Wholesale", &one)).await, "Tariff is not a retail tariff");
    import(&x7, &tariff("2", "Wholesale", &one)).await.assert_body(&reply_of("2", "Wholesale"));
    assert_error(&import(&server, &tariff("0", "New", &four)).await, "Too many rates");
    let without_rates = [(); 4].map(|()| destination("Lithuania - Fixed", &[]));
    assert_error(&import(&server, &tariff("0", "New", &without_rates)).await, "Too many rates");
    // One destination with more rates than are compared with each other.
    let many = format!("<destination>{}</destination>", "<rates/>".repeat(10_001));
    assert_error(&import(&x7, &tariff("0", "Large", &[many])).await, "Too many rates");
    for (server, message) in [(&server, "File does not exist"), (&x7, "No XML")] {
        assert_error(&server.post_signed(IMPORT, "u=admin", "").await, message);
        assert_error(&server.post_signed(IMPORT, "u=admin&xml=", "").await, message);
    }
    server.assert_rows("select count(*) from tariffs", &["3"]).await;
    server.assert_rows("select count(*) from rates", &["0"]).await;
}

#[tokio::test]
async fn users_with_and_without_rights() {
    let (server, x7) = (server().await, x7_server().await);
    insert_fixtures(&server).await;
    insert_fixtures(&x7).await;
    let document = |user: &str| tariff("0", user, &[destination("Lithuania - Fixed", &[ALL_DAY])]);
    for user in ["user", "partner", "accountant_none", "accountant_read", "accountant_zero"] {
        assert_error(&import_as(&server, user, &document(user)).await, "Access Denied");
        assert!(import_as(&x7, user, &document(user)).await.body.contains("<tariff_id>"), "{user}");
    }
    for server in [&server, &x7] {
        assert_error(&import_as(server, "unknown", &document("unknown")).await, "Bad login");
        server.post(IMPORT, "u=admin&xml=a").await.assert_status_error("Incorrect hash");
        assert!(import_as(server, "accountant", &document("accountant")).await.body.contains("<tariff_id>"));
    }
    server.assert_rows("select name, owner_id from tariffs where id > 100", &["accountant|0"]).await;
    x7.assert_rows("select owner_id from tariffs where name = 'accountant'", &["6"]).await;
    x7.assert_rows("select owner_id from tariffs where name = 'user'", &["2"]).await;
}

#[tokio::test]
async fn document_in_every_kind_of_body() {
    let server = server().await;
    insert_fixtures(&server).await;
    let hash = hash("", "secret");
    let document = tariff("1", "Retail", &[destination("No group", &[])]);
    let expected = import(&server, &document).await;
    assert_eq!(expected.element_texts("destination_group_name"), ["No group"]);
    let send = |request: axum::http::Result<Request<Body>>| server.send(request);
    let uri = format!("/billing/api/import_tariff_retail?u=admin&hash={hash}");
    assert_eq!(server.get(&format!("{uri}&xml={}", encoded(&document))).await.body, expected.body);
    // The query string takes precedence, within a body the last one.
    let form = format!("xml=x&a=b;xml=y&%78ml={}&test=1", document.replace(' ', "+"));
    let body = send(Request::post(&uri).body(form.clone().into())).await;
    assert_eq!(body.body, expected.body);
    assert_eq!(body.header("content-type"), Some("text/html; charset=utf-8"));
    let reply = send(Request::post(format!("{uri}&xml=a")).body(form.into())).await;
    assert_error(&reply, "Bad XML data");
    assert_error(&send(Request::post(&uri).body(format!("xml={document}&xml").into())).await, "File does not exist");
    let json = serde_json::json!({ "xml": document }).to_string();
    assert_eq!(
        send(Request::post(&uri).header("content-type", "application/json").body(json.into())).await.body,
        expected.body
    );
    for disposition in ["name=\"xml\"", "name=\"xml\"; filename=\"t.xml\""] {
        let body = format!(
            "--b\r\ncontent-disposition: form-data; name=\"u\"\r\n\r\nadmin\r\n--b\r\ncontent-disposition: form-data; \
             {disposition}\r\n\r\n{document}\r\n--b\r\ncontent-disposition: form-data; name=\"hash\"\r\n\r\n{hash}\r\n--b--\r\n"
        );
        let request = Request::post("/billing/api/tariff_retail_import");
        let request = request.header("content-type", "multipart/form-data; boundary=b").body(body.into());
        assert_eq!(send(request).await.body, expected.body);
    }
    // A file that is not the document does not count as a parameter that was not sent.
    let body = format!(
        "--b\r\ncontent-disposition: form-data; name=\"request_id\"; filename=\"k.txt\"\r\n\r\nk\r\n\
         --b\r\ncontent-disposition: form-data; name=\"xml\"; filename=\"t.xml\"\r\n\r\n{document}\r\n--b--\r\n"
    );
    let request = Request::post(&uri).header("content-type", "multipart/form-data; boundary=b").body(body.into());
    let reply = send(request).await;
    assert_eq!(reply.status, 400, "{}", reply.body);
    reply.assert_status_error("A parameter is an array, an object or a file instead of a text");
    for (body, message) in [
        ("xml=%zz", "Parameters have a malformed % escape"),
        ("xml=%4", "Parameters have a malformed % escape"),
        ("xml=%4&a=b", "Parameters have a malformed % escape"),
        ("xml=a%00", "A NUL character is not allowed in parameters"),
        ("xml=%3Ctariff%3E%ff%3C/tariff%3E", "Parameters are not valid UTF-8"),
        ("xml=a&a=%zz", "Parameters have a malformed % escape"),
    ] {
        let reply = send(Request::post(&uri).body(body.into())).await;
        reply.assert_status_error(message);
        assert_eq!(reply.status, 400, "{body}");
    }
    let reply = send(Request::post(&uri).header("content-encoding", "gzip").body("xml=a".into())).await;
    assert_eq!(reply.status, 415);
    let reply = send(Request::post(&uri).header("content-type", "text/xml").body(document.clone().into())).await;
    assert_error(&reply, "File does not exist");
}

#[tokio::test]
async fn a_key_replays_the_reply() {
    let server = server().await;
    insert_fixtures(&server).await;
    let send = async |document: &str, key: &str| {
        let form = format!("u=admin&hash={}&request_id={key}&xml={}", hash("", "secret"), encoded(document));
        server.post(IMPORT, &form).await
    };
    // A reply that is too large for one chunk.
    let unknown: Vec<String> = (0..2_000).map(|index| destination(&format!("unknown {index}"), &[])).collect();
    let large = tariff("1", "Retail", &unknown);
    let first = send(&large, "a").await;
    assert_eq!(first.element_texts("destination_group_name").len(), 2_000);
    assert!(first.body.len() > 64 * 1024);
    let second = send(&large, "a").await;
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(send(&tariff("1", "Retail", &[]), "a").await.status, 422);
    server.assert_rows("select length(reply::text) < 30000 as small from idempotency_keys", &["true"]).await;
    let document = tariff("0", "New", &[destination("Lithuania - Fixed", &["1 1 60 minute 00:00:00 23:59:59 -"])]);
    let first = send(&document, "b").await;
    let second = send(&document, "b").await;
    assert_eq!((first.body, second.header("idempotency-replayed")), (second.body.clone(), Some("true")));
    server.assert_rows("select count(*) from aratedetails", &["1"]).await;
    // Refusals are stored too.
    let refused = [send("<a>", "c").await, send("<a>", "c").await];
    refused.iter().for_each(|reply| assert_error(reply, "Bad XML data"));
    assert_eq!(refused[1].header("idempotency-replayed"), Some("true"));
}

/// Only a reply that can be kept is given under a key.
#[tokio::test]
async fn a_reply_that_is_too_large_for_a_key_is_refused() {
    let server = server().await;
    insert_fixtures(&server).await;
    // Letters that cannot be compressed much.
    let mut random = fastrand::Rng::with_seed(1);
    let unknown: Vec<String> = (0..24)
        .map(|_| destination(&(0..1_000_000).map(|_| random.alphanumeric()).collect::<String>(), &[]))
        .chain([destination("Lithuania - Fixed", &[ALL_DAY])])
        .collect();
    let form = format!("xml={}", tariff("1", "Retail", &unknown));
    let uri = format!("/billing/api/{IMPORT}?u=admin&hash={}", hash("", "secret"));
    let send = async |key: &str| server.send(Request::post(format!("{uri}{key}")).body(form.clone().into())).await;
    assert_error(&send("&request_id=a").await, "Too many refused rates for an idempotency key");
    server.assert_rows("select count(*) from aratedetails", &["0"]).await;
    assert_eq!(send("").await.element_texts("destination_group_name").len(), 24);
    server.assert_rows("select count(*) from aratedetails", &["1"]).await;
}

/// Destinations of one group in different batches continue each other's chains, and a broken chain stays broken.
#[tokio::test]
async fn batches_see_what_earlier_ones_wrote() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    server.execute("insert into destinationgroups (name) select 'group ' || n from generate_series(1, 1000) n").await;
    let mut destinations = vec![
        destination("Lithuania - Fixed", &["1 1 60 minute 00:00:00 23:59:59 -"]),
        destination("Lithuania - Mobile", &["1 60 0 minute 00:00:00 23:59:59 -"]),
    ];
    destinations.extend((1..=1000).map(|n| destination(&format!("group {n}"), &[ALL_DAY])));
    destinations.push(destination("Lithuania - Fixed", &[ALL_DAY]));
    destinations.push(destination("Lithuania - Mobile", &[ALL_DAY]));
    let document = tariff("0", "Batches", &destinations);
    let reply = import(&server, &document).await;
    assert_eq!(reply.element_texts("rate_duration"), ["0"]);
    server
        .assert_rows(
            "select g.name, a.\"from\" from aratedetails a join rates r on r.id = rate_id
             join destinationgroups g on g.id = destinationgroup_id where g.name like 'Lith%' order by a.id",
            &["Lithuania - Fixed|1", "Lithuania - Fixed|61"],
        )
        .await;
    server.assert_rows("select count(*), count(distinct rate_id) from aratedetails", &["1002|1001"]).await;
    // The order of the rows is that of the document.
    server
        .assert_rows(
            "select count(*) from (select price, lag(rate_id) over (order by id) > rate_id as back from aratedetails) a where back",
            &["1"],
        )
        .await;
    // Again, nothing is written.
    let again = import(&server, &document.replace("<id>0</id>", "<id>101</id>")).await;
    assert_eq!(again.status, 200);
    server.assert_rows("select count(*) from aratedetails", &["1002"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_into_one_tariff_run_one_after_the_other() {
    let server = server().await;
    insert_fixtures(&server).await;
    let document = tariff("1", "Retail", &[destination("Lithuania - Fixed", &["1 1 60 minute 00:00:00 23:59:59 -"])]);
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from tariffs where id = 1 for update").execute(&mut *lock).await.unwrap();
    let waiting = tokio::spawn({
        let (server, document) = (server.clone(), document.clone());
        async move { import(&server, &document).await }
    });
    server.wait_for_lock_waiter().await;
    server.assert_rows("select count(*) from aratedetails", &["0"]).await;
    lock.commit().await.unwrap();
    waiting.await.unwrap().assert_body(&reply_of("1", "Retail"));
    let replies = tokio::join!(import(&server, &document), import(&server, &document));
    replies.0.assert_body(&reply_of("1", "Retail"));
    replies.1.assert_body(&reply_of("1", "Retail"));
    server.assert_rows("select \"from\" from aratedetails order by id", &["1", "61", "121"]).await;
    server.assert_rows("select count(*) from rates", &["1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_imports_that_create_a_name_the_second_is_refused() {
    let server = server().await;
    insert_fixtures(&server).await;
    let document = tariff("0", "New", &[destination("Lithuania - Fixed", &[ALL_DAY])]);
    let mut other = server.pool.begin().await.unwrap();
    sqlx::query("insert into tariffs (id, name, owner_id) values (77, 'New', 0)").execute(&mut *other).await.unwrap();
    let waiting = tokio::spawn({
        let (server, document) = (server.clone(), document.clone());
        async move { import(&server, &document).await }
    });
    server.wait_for_lock_waiter().await;
    other.commit().await.unwrap();
    assert_error(&waiting.await.unwrap(), "TARIFF with same name exists, ID:77!!! CHANGE NAME OR ID");
    server.assert_rows("select count(*) from rates", &["0"]).await;
}

/// Rows that a tariff has for a group are read as chains: there can be many rows, but not many chains.
#[tokio::test]
async fn rates_follow_many_rows_of_one_group() {
    let server = server().await;
    insert_fixtures(&server).await;
    server
        .execute(
            "insert into rates (id, tariff_id, destinationgroup_id) values (1, 1, 1);
             insert into aratedetails (rate_id, \"from\", duration, artype, start_time, end_time, daytype)
             select 1, i, 1, 'minute', '00:00', '23:59:59', null from generate_series(1, 19999) i;
             insert into aratedetails (rate_id, \"from\", duration, artype, start_time, end_time, daytype) values
                 (1, 20000, 0, 'event', '00:00', '23:59:59', ''), (1, 2147483647, 2147483647, 'minute', null, null, ''),
                 (1, null, null, null, null, null, '')",
        )
        .await;
    let document = tariff("1", "Retail", &[destination("Lithuania - Fixed", &[ALL_DAY])]);
    let reply = import(&server, &document).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    server.assert_rows("select \"from\" from aratedetails where duration = -1 and artype = 'minute'", &["20000"]).await;
    // Each rate would be compared with each of these chains.
    server
        .execute(
            "insert into aratedetails (rate_id, \"from\", duration, artype, start_time, end_time)
             select 1, 1, -1, 'minute', '00:00'::time + i * interval '1 second', '00:00' from generate_series(1, 10001) i",
        )
        .await;
    assert_error(&import(&server, &document).await, "Too many rates");
}

/// A failure in the middle of the import leaves nothing.
#[tokio::test]
async fn nothing_is_written_if_a_statement_fails() {
    let server = server().await;
    insert_fixtures(&server).await;
    server
        .execute(
            "insert into destinationgroups (id, name) select 1000 + n, 'group ' || n from generate_series(1, 1500) n;
             alter table rates add constraint no_last_group check (destinationgroup_id <> 2400)",
        )
        .await;
    let destinations: Vec<String> = (1..=1500).map(|n| destination(&format!("group {n}"), &[ALL_DAY])).collect();
    import(&server, &tariff("0", "New", &destinations)).await.assert_page_error("Failed to make transaction");
    server.assert_rows("select count(*) from tariffs", &["3"]).await;
    server.assert_rows("select count(*) from rates", &["0"]).await;
}

/// The import of a document by the admin, without a request.
fn order_of(document: &str) -> (Import, Spooled) {
    let mut spool = Spool::new(std::env::temp_dir().into());
    spool.write_all(document.as_bytes()).unwrap();
    let order = Import {
        dialect: Dialect::Documented,
        author: Author::User { id: 0, request_id: None },
        owner_id: 0,
        currency: None,
        rates_max: 10,
        lock_timeout: "110s",
    };
    (order, spool.finish().unwrap())
}

/// A document whose reader ends before its end is not imported in part.
#[tokio::test]
async fn nothing_is_written_if_the_reader_ends_early() {
    let server = server().await;
    insert_fixtures(&server).await;
    let document = tariff("0", "New", &[destination("Lithuania - Fixed", &[ALL_DAY])]);
    let (order, content) = order_of(&document);
    let head = check(&content).await.unwrap();
    let mut connection = server.pool.acquire().await.unwrap();
    for (destinations, is_imported) in [(2, false), (1, true)] {
        let head = Head { destinations, ..head.clone() };
        let mut transaction = connection.begin().await.unwrap();
        let report = Report::new(Dialect::Documented, &std::env::temp_dir().into());
        let outcome = import_document(&mut transaction, &order, &head, &content, report).await;
        assert_eq!(outcome.is_ok(), is_imported, "{:?}", outcome.err());
    }
}

/// A client that reads slowly does not keep the reply for ever. The clock is paused.
#[tokio::test(start_paused = true)]
async fn a_large_reply_has_a_time_limit() {
    let mut report = Report::new(Dialect::Documented, &std::env::temp_dir().into());
    for number in 0..10_000 {
        let group_name = format!("unknown {number}");
        report.add_unknown(&Destination { group_name, ..Destination::default() }).unwrap();
    }
    let counts = Counts { destinations: 10_000, ..Counts::default() };
    let imported = Imported { tariff_id: 1, tariff_name: "Retail".to_owned(), counts, refusals: report };
    let XmlReply::Streamed(mut chunks) = Outcome::new(imported).unwrap().into_reply(None) else { panic!() };
    for _ in 0..2 {
        assert!(!chunks.next().await.unwrap().unwrap().is_empty());
    }
    tokio::time::advance(Duration::from_secs(3600)).await;
    let error = chunks.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("took longer than an hour"), "{error}");
}

/// Tells the test that a decision was made, and waits until the test goes on.
struct Pause {
    decided: Option<tokio::sync::oneshot::Sender<()>>,
    resume: std::sync::mpsc::Receiver<()>,
}

impl Refusals for Pause {
    fn add_unknown(&mut self, _: &Destination) -> std::io::Result<()> {
        Ok(())
    }

    fn add(&mut self, _: &Destination, _: &Decision) -> std::io::Result<()> {
        self.decided.take().unwrap().send(()).unwrap();
        self.resume.recv_timeout(Duration::from_secs(60)).map_err(std::io::Error::other)
    }
}

/// The test has one thread for all requests.
#[tokio::test]
async fn other_requests_run_during_the_decisions() {
    let server = server().await;
    insert_fixtures(&server).await;
    let (order, content) = order_of(&tariff("0", "New", &[destination("Lithuania - Fixed", &[ALL_DAY])]));
    let head = check(&content).await.unwrap();
    let (decided, is_decided) = tokio::sync::oneshot::channel();
    let (resume, is_resumed) = std::sync::mpsc::channel();
    let pause = Pause { decided: Some(decided), resume: is_resumed };
    let mut transaction = server.pool.begin().await.unwrap();
    let (imported, ()) = tokio::join!(import_document(&mut transaction, &order, &head, &content, pause), async {
        is_decided.await.unwrap();
        resume.send(()).unwrap();
    });
    assert_eq!(imported.map(|imported| imported.counts.rates_written), Ok(1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 50, ..ProptestConfig::default() })]
    /// Any document gives well-formed XML, and what the steps say, or nothing.
    #[test]
    fn any_document_gets_a_reply(
        documents in prop::collection::vec(prop_oneof![
            ".*",
            prop::collection::vec(prop::sample::select(vec!["Lithuania - Fixed", "Latvia - Fixed", "no"]), 0..4)
                .prop_flat_map(|names| (Just(names), prop::collection::vec("[-0-9.:WDFminutev ]{0,40}", 0..4)))
                .prop_map(|(names, rates)| {
                    let rates: Vec<&str> = rates.iter().map(String::as_str).chain([ALL_DAY]).collect();
                    let destinations: Vec<String> = names.iter().map(|name| destination(name, &rates)).collect();
                    tariff("0", "Any", &destinations)
                }),
        ], 1..6),
    ) {
        Runtime::new().unwrap().block_on(async {
            let server = server_with_settings(&[("max_requests", "0")]).await;
            insert_fixtures(&server).await;
            for document in documents {
                let before = server.rows("select count(*) from aratedetails").await;
                let reply = import(&server, &document).await;
                assert!(reply.status.as_u16() < 500, "{document:?}: {reply:?}");
                xml::parse_leaves(&reply.body).unwrap();
                if reply.body.contains("<error>") {
                    server.assert_rows("select count(*) from aratedetails", &[&before[0]]).await;
                }
            }
            server.close().await;
        });
    }
}
