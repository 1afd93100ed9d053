//! `tariff_rates_get` (`endpoints/tariff_rates_get.md`).

use std::io::{Cursor, Read};

use axum::http::StatusCode;

use super::rate_get::RATES_SQL;
use crate::harness::{FIXTURE_SQL, Reply, Server, hash, postgres, server_on_database};

const GET: &str = "tariff_rates_get";

async fn rates_server(dialect: &str) -> Server {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, &[("dialect", dialect)]).await;
    server.execute(RATES_SQL).await;
    server
}

/// Sends a signed request; `form` has no `u`.
async fn list(server: &Server, user: &str, form: &str) -> Reply {
    let value = |name: &str| {
        let value = form.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")[..]))?;
        value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().unwrap_or(0_u128).to_string())
    };
    let hashed = [value("user_id"), value("tariff_id")].into_iter().flatten().collect::<String>();
    let key = if ["reseller", "customer"].contains(&user) { "reskey" } else { "secret" };
    server.post(GET, &format!("u={user}&{form}&hash={}", hash(&hashed, key))).await
}

/// Asserts the whole body. `[n]` stands for n spaces, `[tab]` for a tab character.
#[track_caller]
fn assert_text(reply: &Reply, expected: &str) {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned();
    for line in expected.trim().lines() {
        let mut rest = line.trim_start();
        text.push('\n');
        while let Some((before, after)) = rest.split_once('[') {
            let (count, after) = after.split_once(']').unwrap();
            text += before;
            text += &if count == "tab" { "\t".to_owned() } else { " ".repeat(count.parse().unwrap()) };
            rest = after;
        }
        text += rest;
    }
    assert_eq!(reply.body, text);
}

fn assert_rates_error(reply: &Reply, message: &str) {
    assert_text(reply, &format!("[17]<page><status><error>{message}</error></status></page>"));
}

const WHOLESALE_HEAD: &str = "
    [17]<page>[11]<pagename>Tariff</pagename>
    [37]<tariff_name>Wholesale</tariff_name>
    [37]<purpose>user_wholesale</purpose>
    [37]<currency>EUR</currency>
    [36]<rates>";

/// A wholesale rate: direction, destination, prefix, code, price, fee, increment, minimum, start, end, day type,
/// effective from.
fn wholesale_rate(values: [&str; 12], shows_effective_from: bool) -> String {
    const NAMES: [&str; 12] = [
        "direction",
        "destination",
        "prefix",
        "code",
        "tariff_rate",
        "con_fee",
        "increment",
        "min_time",
        "start_time",
        "end_time",
        "daytype",
        "effective_from",
    ];
    let lines = NAMES.iter().zip(values).take(if shows_effective_from { 12 } else { 11 });
    let lines: String = lines.map(|(name, value)| format!("\n[39]<{name}>{value}</{name}>")).collect();
    format!("<rate>{lines}\n[39]</rate>")
}

#[tokio::test]
async fn lists_wholesale_rates() {
    for dialect in ["documented", "x7"] {
        let server = rates_server(dialect).await;
        let lithuania = |values: [&str; 8]| {
            let [price, fee, increment, min, start, end, day, from] = values;
            let names = ["lithuania", "Lithuania - Fixed", "370", "LTU"];
            let [direction, destination, prefix, code] = names;
            [direction, destination, prefix, code, price, fee, increment, min, start, end, day, from].map(str::to_owned)
        };
        let rates: Vec<[String; 12]> = vec![
            // Without a direction first; then by direction in any letter case, prefix, effective_from, id, day, start.
            [
                "",
                "No direction #1 &amp; &lt;more&gt;",
                "999",
                "",
                "100.5000",
                "0.0001",
                "1",
                "0",
                "00:00:00",
                "23:59:59",
                "",
                "",
            ]
            .map(str::to_owned),
            ["Albania", "Albania - Fixed", "355", "ALB", "", "", "", "", "", "", "", ""].map(str::to_owned),
            lithuania(["1.0000", "0.0000", "1", "0", "00:00:00", "23:59:59", "", ""]),
            lithuania(["2.0000", "0.0000", "1", "0", "00:00:00", "23:59:59", "", "2020-01-01 00:00:00"]),
            lithuania(["0.3750", "", "1", "0", "00:00:00", "24:00:00", "FD", "2020-01-01 00:00:00"]),
            lithuania(["0.0157", "0.0500", "60", "30", "08:00:00", "17:59:59", "WD", "2020-01-01 00:00:00"]),
            lithuania(["4.0000", "0.0000", "1", "0", "00:00:00", "23:59:59", "", "2999-01-01 00:00:00"]),
        ];
        let rates: String = rates
            .iter()
            .map(|values| wholesale_rate(values.each_ref().map(String::as_str), dialect == "documented"))
            .collect();
        let expected = format!("{WHOLESALE_HEAD}{rates}</rates></page>");
        assert_text(&list(&server, "admin", "tariff_id=20&test=1").await, &expected);
        assert_text(&list(&server, "admin", "tariff_id=0020&test=1").await, &expected);
    }
}

#[tokio::test]
async fn lists_retail_rates_and_custom_rates() {
    let server = rates_server("documented").await;
    server.execute("update users set currency_id = 2 where id = 10").await;
    let part = |indent: &str, name: &str, currency: &str| {
        format!(
            "{indent}<pagename>Tariff</pagename>
            {indent}<tariff_name>{name}</tariff_name>
            {indent}<purpose>user</purpose>
            {indent}<currency>{currency}</currency>"
        )
    };
    let price = |values: [&str; 8]| {
        let [duration, kind, round, price, start, end, day, from] = values;
        format!(
            "<rate> <duration>{duration}</duration> <type>{kind}</type>
            [18]<round_by>{round}</round_by>
            [18]<tariff_rate>{price}</tariff_rate>
            [18]<start_time>{start}</start_time>
            [18]<end_time>{end}</end_time>
            [18]<daytype>{day}</daytype>
            [18]<from>{from}</from>
            [18]</rate>"
        )
    };
    let destination = |name: &str, prices: &str| {
        format!(" <destination> <destination_group_name>{name}</destination_group_name>{prices} </destination>")
    };
    let albania = [
        price(["1", "event", "", "", "", "24:00:00", "", ""]),
        price(["Infinity", "minute", "1", "0.15", "00:00:00", "23:59:59", "FD", "1"]),
        price(["60", "minute", "60", "0.25", "00:00:00", "23:59:59", "WD", "1"]),
        price(["30", "minute", "1", "0.25", "00:00:00", "23:59:59", "WD", "1"]),
        price(["Infinity", "minute", "1", "0.2", "00:00:00", "23:59:59", "WD", "61"]),
    ];
    let (albania, mobile) = (
        destination("Albania - Fixed", &albania.concat()),
        destination("Lithuania - Mobile", &price(["", "", "", "", "", "", "", ""])),
    );
    let fixed = destination(
        "lithuania - Fixed",
        &price(["Infinity", "minute", "1", "0.123456789012345", "00:00:00", "23:59:59", "", "1"]),
    );
    let retail = part("[28]", "Retail", "USD");
    let whole = format!("[17]<page>\n{retail}\n[28]<rates>{albania}{fixed}{mobile}</rates></page>");
    assert_text(&list(&server, "admin", "tariff_id=21&test=1").await, &whole);
    // The partner's own rates come first, and the tariff's rate for that group is left out.
    let custom_price = |price: &str, day: &str| {
        format!(
            "<rate><duration>Infinity</duration><type>minute</type>
            [20]<round_by>1</round_by>
            [20]<tariff_rate>{price}</tariff_rate>
            [20]<start_time>00:00:00</start_time>
            [20]<end_time>23:59:59</end_time>
            [20]<daytype>{day}</daytype>
            [20]<from>1</from>
            [20]</rate>"
        )
    };
    let custom = format!(
        "[17]<page>
        {}
        [tab][10]<rates> <destination> <destination_group_name>lithuania - Fixed</destination_group_name>{}{}</destination></rates>
        {retail}
        [28]<rates>{albania}{mobile}</rates></page>",
        part("[18]", "Custom Rates", "EUR"),
        custom_price("0.011", "FD"),
        custom_price("0.012", "WD"),
    );
    assert_text(&list(&server, "partner", "test=1").await, &custom);
    assert_text(&list(&server, "admin", "user_id=10&tariff_id=20&test=1").await, &custom);
    // With tariff_id a simple user or partner gets the own tariff without them.
    assert_text(&list(&server, "partner", "tariff_id=20&test=1").await, &whole);
    // Not for a wholesale tariff, although the user has custom rates.
    assert!(!list(&server, "admin", "user_id=2&test=1").await.body.contains("Custom Rates"));
    server.execute("delete from rates where tariff_id = 21").await;
    let only_custom = custom.split("[28]<rates>").next().unwrap().to_owned() + "[28]<rates></rates></page>";
    assert_text(&list(&server, "partner", "test=1").await, &only_custom);
    assert_text(
        &list(&server, "admin", "tariff_id=24&test=1").await,
        &format!(
            "[17]<page>\n{}\n[28]<rates></rates></page>",
            part("[28]", "T &amp; &lt;x&gt; &#39;é&#39; &quot;q&quot; 漢", "USD")
        ),
    );
}

/// Who sees which tariff: the name in the reply, or the error.
#[tokio::test]
async fn errors_and_visible_tariffs() {
    const UNKNOWN: &str = "No tariff found";
    let (documented, x7) = (rates_server("documented").await, rates_server("x7").await);
    for server in [&documented, &x7] {
        assert_rates_error(&server.post(GET, "u=unknown&tariff_id=20&test=1").await, "Bad login");
        assert_rates_error(&server.post(GET, "test=1").await, "Bad login");
        assert_rates_error(&list(server, "admin", "tariff_id=99&test=1").await, UNKNOWN);
        server.post(GET, "u=admin&tariff_id=20").await.assert_status_error("Incorrect hash");
    }
    let cases = [
        // (caller, parameters, documented, x7)
        ("admin", "", "Wholesale", "Wholesale"),
        ("admin", "tariff_id=22", "Reseller&#39;s retail", "Reseller&#39;s retail"),
        ("admin", "tariff_id=23", "Provider", "Provider"),
        ("admin", "tariff_id=", UNKNOWN, UNKNOWN),
        ("admin", "tariff_id=99999999999999999999", UNKNOWN, UNKNOWN),
        // Not digits: as if absent.
        ("admin", "tariff_id=21x", "Wholesale", "Wholesale"),
        ("admin", "tariff_id= 21", "Wholesale", "Wholesale"),
        ("admin", "user_id=abc&tariff_id=21", "Retail", "Retail"),
        // The user: any of the admin; owner 0 of an accountant; its own of a reseller; itself of others.
        ("admin", "user_id=11&tariff_id=20", "Reseller&#39;s retail", "Reseller&#39;s retail"),
        ("admin", "user_id=", "Wholesale", "Wholesale"),
        ("admin", "user_id=77", UNKNOWN, UNKNOWN),
        ("admin", "user_id=4", UNKNOWN, UNKNOWN),
        ("accountant", "user_id=10", "Retail", "Retail"),
        ("accountant", "user_id=11", UNKNOWN, "Reseller&#39;s retail"),
        ("reseller", "user_id=3", "Retail", "Retail"),
        ("reseller", "user_id=11", "Reseller&#39;s retail", "Reseller&#39;s retail"),
        ("reseller", "user_id=2", UNKNOWN, "Wholesale"),
        ("user", "user_id=2", "Wholesale", "Wholesale"),
        ("user", "user_id=10", UNKNOWN, "Retail"),
        ("customer", "user_id=3", UNKNOWN, "Retail"),
        // The tariff: its own of a reseller, and in the documented dialect the assigned one.
        ("reseller", "", "Retail", "Retail"),
        ("reseller", "tariff_id=22", "Reseller&#39;s retail", "Reseller&#39;s retail"),
        ("reseller", "tariff_id=21", "Retail", UNKNOWN),
        ("reseller", "tariff_id=20", UNKNOWN, UNKNOWN),
        ("accountant", "tariff_id=21", "Wholesale", "Wholesale"),
        ("user", "tariff_id=21", "Wholesale", "Wholesale"),
        ("customer", "tariff_id=99", "Reseller&#39;s retail", "Reseller&#39;s retail"),
        ("accountant_none", "", UNKNOWN, UNKNOWN),
    ];
    let outcome = |reply: &Reply| {
        let names = reply.element_texts("tariff_name").into_iter().filter(|name| *name != "Custom Rates");
        names.chain(reply.element_texts("error")).collect::<Vec<_>>().join(" ")
    };
    for (user, form, documented_outcome, x7_outcome) in cases {
        let form = format!("{form}&test=1");
        assert_eq!(outcome(&list(&documented, user, &form).await), documented_outcome, "documented {user} {form}");
        assert_eq!(outcome(&list(&x7, user, &form).await), x7_outcome, "x7 {user} {form}");
    }
    for server in [&documented, &x7] {
        server
            .execute("insert into conflines (name, value) values ('Allow_Resellers_to_use_Admin_Tariffs', '1')")
            .await;
        for (tariff, expected) in [("20", "Wholesale"), ("21", "Retail"), ("23", UNKNOWN)] {
            let reply = list(server, "reseller", &format!("tariff_id={tariff}&test=1")).await;
            assert_eq!(outcome(&reply), expected);
        }
    }
}

#[tokio::test]
async fn replies_are_zip_files_without_test() {
    let server = rates_server("documented").await;
    let text = list(&server, "admin", "tariff_id=20&test=1").await;
    assert_eq!(
        (text.header("content-type"), text.header("content-disposition")),
        (Some("text/html; charset=utf-8"), None)
    );
    for (form, expected) in [
        ("u=admin&tariff_id=20", text.body.as_str()),
        ("u=admin&tariff_id=20&test=abc", text.body.as_str()),
        ("u=admin&tariff_id=99", "No tariff found"),
        ("u=unknown&tariff_id=20", "Bad login"),
    ] {
        for extension in [false, true] {
            server.execute("delete from conflines where name = 'XML_API_Extension'").await;
            if extension {
                server.execute("insert into conflines (name, value) values ('XML_API_Extension', '1')").await;
            }
            let tariff_id = form.split("tariff_id=").nth(1).unwrap().split('&').next().unwrap();
            let reply = server.post_signed(GET, form, tariff_id).await;
            assert_eq!(reply.status, StatusCode::OK);
            assert_eq!(reply.header("content-type"), Some("application/zip"));
            assert_eq!(reply.header("content-transfer-encoding"), Some("binary"));
            assert_eq!(reply.header("content-length"), None);
            let disposition = reply.header("content-disposition").unwrap();
            let name = disposition.strip_prefix("attachment; filename=\"").unwrap().strip_suffix(".zip\"").unwrap();
            let seconds = name.strip_prefix("get_tariff_").unwrap().strip_suffix(".xml").unwrap();
            assert!(seconds.len() >= 10 && seconds.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
            let mut archive = zip::ZipArchive::new(Cursor::new(&reply.bytes)).unwrap();
            assert_eq!(archive.len(), 1);
            let mut entry = archive.by_index(0).unwrap();
            assert_eq!((entry.name().unwrap().as_ref(), entry.compression()), (name, zip::CompressionMethod::Deflated));
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            assert!(content == expected || content.contains(&format!("<error>{expected}</error>")), "{content}");
            drop(entry);
            // Bit 3 of the flags: sizes follow the data. The sizes of the header are in its ZIP64 field, and unknown.
            assert_eq!(reply.bytes[6] & 8, 8);
            assert_eq!(u16::from_le_bytes([reply.bytes[8], reply.bytes[9]]), 8);
            let number_at = |at: usize| u16::from_le_bytes([reply.bytes[at], reply.bytes[at + 1]]);
            assert_eq!((number_at(4), number_at(30 + name.len())), (45, 1), "version 4.5 and the ZIP64 field");
        }
    }
    let text = list(&server, "admin", "tariff_id=20&test=1").await;
    assert_eq!(text.header("content-type"), Some("application/xml; charset=utf-8"));
    // Refusals before the operation are ordinary documents.
    let refused = server.post(GET, "u=admin&tariff_id=20").await;
    assert_eq!(refused.header("content-type"), Some("text/xml"));
    refused.assert_status_error("Incorrect hash");
}

/// The hashes of the contract, and the alias by GET.
#[tokio::test]
async fn published_hashes_are_accepted() {
    let server = rates_server("documented").await;
    server.execute("update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 0").await;
    for (query, hash) in [
        ("tariff_id=100", "71516eea4850f7e0300ac86adf9fb64bca845aa7"),
        ("user_id=123&tariff_id=100", "b1bef44691c237b574263e09b2838ad1e658e507"),
        ("tariff_id=0100&user_id=0123", "b1bef44691c237b574263e09b2838ad1e658e507"),
    ] {
        let reply = server.get(&format!("/billing/api/get_tariff?u=admin&test=1&{query}&hash={hash}")).await;
        assert_rates_error(&reply, "No tariff found");
    }
    server.execute("update conflines set value = 'secret' where name = 'API_Secret_Key' and owner_id = 0").await;
    for (query, hash) in [
        ("tariff_id=", "60fc593f766e7412c1059da8847ef755cef541a3"),
        ("user_id=77&tariff_id=6", hash("776", "secret").as_str()),
        ("tariff_id=99x&user_id=77", hash("77", "secret").as_str()),
    ] {
        let reply = server.get(&format!("/billing/api/get_tariff?u=admin&test=1&{query}&hash={hash}")).await;
        assert_rates_error(&reply, "No tariff found");
    }
    for (query, hash) in [
        ("user_id=2&tariff_id=6", "5c78a24810a49911deb2b88c76d96b5de183e899"),
        ("tariff_id=04", "9a9d292176f7b8adb10d0d037732446bae1ef4dd"),
        ("tariff_id=4abc", "e5e9fa1ba31ecd1ae84f75caaa474f3a663f05f4"),
    ] {
        let reply = server.get(&format!("/billing/api/get_tariff?u=admin&test=1&{query}&hash={hash}")).await;
        assert!(reply.body.contains("<page>") && !reply.body.contains("Incorrect hash"), "{query}: {}", reply.body);
    }
}
