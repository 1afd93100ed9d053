//! Properties for arbitrary input: number parsing, the hash, XML, money.

use std::str::FromStr;

use axum::body::Bytes;
use axum::http::HeaderMap;
use bigdecimal::BigDecimal;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use mortise::auth::signature::HashRule;
use mortise::dialect::Dialect;
use mortise::http::params::Params;
use mortise::money::Money;
use mortise::number::{is_decimal, parse_decimal, parse_digits, parse_integer};
use mortise::operations::OPERATIONS;
use mortise::xml::{Element, XmlReply};
use proptest::prelude::*;

use crate::harness::{hash, server, xml};

#[test]
fn integers_are_parsed_as_documented() {
    for (text, number) in [
        ("VFT", 0),
        ("1.9", 1),
        (" 3", 3),
        ("12abc", 12),
        ("", 0),
        ("-", 0),
        ("+", 0),
        ("-7", -7),
        ("+7", 7),
        ("- 7", 0),
        ("--7", 0),
        ("\t\n 7", 7),
        ("007", 7),
        ("1_000", 1000),
        ("1__000", 1),
        ("_1", 0),
        ("1_", 1),
        ("0_8", 8),
        ("0x10", 0),
        ("1e2", 1),
        ("٣", 0),
        ("\u{a0}3", 0),
        ("9223372036854775807", i64::MAX),
        ("9223372036854775808", i64::MAX),
        ("-99999999999999999999", -i64::MAX),
    ] {
        assert_eq!(parse_integer(text), number, "{text:?}");
    }
}

proptest! {
    #[test]
    fn integer_parsing_ignores_trailing_text(number: i32, zeros in 0..5usize, rest in "([^0-9_].*)?") {
        let text = format!(" {}{}{}{rest}", if number < 0 { "-" } else { "" }, "0".repeat(zeros), number.unsigned_abs());
        prop_assert_eq!(parse_integer(&text), i64::from(number));
    }

    #[test]
    fn number_parsing_never_panics(text: String) {
        let _ = (parse_integer(&text), parse_digits(&text), parse_decimal(&text), is_decimal(&text));
    }

    #[test]
    fn number_parsing_matches_a_simple_reference(text in NUMBER_LIKE) {
        let (prefix, rest) = longest_prefix(&text, is_integer);
        let whole = BigDecimal::from_str(if prefix.is_empty() { "0" } else { &prefix }).unwrap();
        let limit = BigDecimal::from(i64::MAX);
        prop_assert_eq!(BigDecimal::from(parse_integer(&text)), whole.clone().min(limit.clone()).max(-limit), "{} {}", prefix, rest);

        let (prefix, rest) = longest_prefix(&text, is_decimal_number);
        let expected = BigDecimal::from_str(if prefix.is_empty() { "0" } else { &prefix }).unwrap();
        let limit = BigDecimal::from_str("1e60").unwrap();
        if expected.abs() >= limit {
            prop_assert!(parse_decimal(&text).abs() >= limit);
        } else if expected.abs() * &limit >= 1 {
            prop_assert_eq!(parse_decimal(&text), expected);
        }
        let is_whole_text = rest.trim().is_empty() || rest.starts_with('.') && rest[1..].trim().is_empty() && !prefix.contains(['.', 'e', 'E']);
        prop_assert_eq!(is_decimal(&text), !prefix.is_empty() && is_whole_text, "{:?} {:?}", prefix, rest);
    }

    /// The hash ignores the order of parameters, all but the last value of a repeated parameter, and parameters that
    /// aren't signed.
    #[test]
    fn hash_ignores_parameter_order(
        values in proptest::collection::btree_map(prop::sample::select(&HASHED[..]), "[a-z0-9]{0,6}", 0..HASHED.len()),
        shuffled in any::<u64>(),
    ) {
        let mut sent: Vec<_> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let original = sent.join("&");
        sent.extend(["unknown=1".to_owned(), "curr=EUR".to_owned()]);
        sent.sort_by_key(|pair| hash(pair, &shuffled.to_string()));
        // Adds an earlier value of each parameter.
        let earlier = sent.iter().filter_map(|pair| pair.split_once('=')).map(|(name, _)| format!("{name}=earlier&"));
        let repeated = earlier.collect::<String>() + &sent.join("&");
        for operation in OPERATIONS {
            let digests = |query: &str| {
                let params = params(query);
                let signed = operation.hash_rules.iter().flat_map(|rule| rule.signed_params(&params, "cc_by_cli"));
                signed.map(|signed| signed.digest("key")).collect::<Vec<_>>()
            };
            prop_assert_eq!(digests(&original), digests(&repeated), "{}", operation.name);
        }
    }

    /// The three values of a tariff may be hashed in any order. Fewer or more values are refused.
    #[test]
    fn tariff_hash_accepts_values_in_any_order(values in ["[1-9]{1,4}", "[a-z]{1,8}", "[A-Z]{3}"], order in Just([0, 1, 2]).prop_shuffle()) {
        let params = params(&format!("currency={2}&id={0}&name={1}", values[0], values[1], values[2]));
        let tariff = OPERATIONS.iter().find(|operation| operation.name == "tariff_wholesale_update").unwrap();
        let is_accepted = |text: &str| {
            let mut signed = tariff.hash_rules.iter().flat_map(|rule| rule.signed_params(&params, tariff.name));
            signed.any(|signed| signed.verify(&hash(text, "key"), "key", Dialect::Documented))
        };
        let [a, b, c] = order.map(|index: usize| values[index].as_str());
        prop_assert!(is_accepted(&[a, b, c].concat()));
        prop_assert!(!is_accepted(&[a, b].concat()));
        prop_assert!(!is_accepted(&[a, b, c, "x"].concat()));
    }

    /// The hash changes if a signed value changes, and stays if another one does.
    #[test]
    fn hash_covers_the_signed_values_only(
        email in "[a-z]{1,9}", id in "[0-9]{1,4}", quantity in "[0-9]{1,4}", number in "[0-9]{1,4}", curr in "[A-Z]{3}",
        changed in 0..5usize, value in "[a-z]{1,5}x",
    ) {
        let names = ["email", "id", "quantity", "number", "curr"];
        let mut values = [email, id, quantity, number, curr];
        let digest = |values: &[String; 5]| {
            let pairs = names.iter().zip(values).map(|(name, value)| format!("{name}={value}"));
            let query = pairs.collect::<Vec<_>>().join("&");
            HashRule::ParamOrder(&["number"]).signed_params(&params(&query), "")[0].digest("key")
        };
        let before = digest(&values);
        prop_assert_eq!(hex::encode(before), hash(&values[..3].concat(), "key"));
        values[changed] = value;
        prop_assert_eq!(before != digest(&values), changed < 3);
    }

    /// An XML parser reads any text back unchanged, except for characters that XML forbids.
    #[test]
    fn xml_is_well_formed_for_any_text(texts in proptest::collection::vec(text(), 0..5)) {
        let reply = XmlReply::new("page", |page| {
            for text in &texts {
                page.element("card", |card| card.text("name", text));
            }
        });
        let xml = text_of(reply);
        let expected: Vec<_> = texts.iter().map(|text| ("name".to_owned(), xml::replace_disallowed_chars(text))).collect();
        let leaves = match texts.is_empty() {
            true => Vec::new(),
            false => xml::parse_leaves(&xml).unwrap(),
        };
        prop_assert_eq!(leaves, expected);
    }

    /// Each element is on its own line, and only the documented characters are escaped or replaced.
    #[test]
    fn xml_is_exact_for_any_text(texts in proptest::collection::vec(text(), 0..5)) {
        let reply = XmlReply::new("page", |page| {
            for text in &texts {
                page.element("card", |card| {
                    card.text("name", text);
                    card.optional_text("pin", None);
                });
            }
        });
        let is_forbidden = |char: char| matches!(char, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
        let escape = |text: &String| {
            text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace(is_forbidden, "\u{fffd}")
        };
        let cards = texts.iter().map(|text| format!("  <card>\n    <name>{}</name>\n    <pin/>\n  </card>\n", escape(text)));
        let expected = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<page>\n{}</page>\n", cards.collect::<String>());
        prop_assert_eq!(text_of(reply), expected);
    }

    /// A streamed list has the same text as the same list written at once.
    #[test]
    fn streamed_list_equals_the_buffered_list(rows in proptest::collection::vec((0..3u8, text(), 0..20_000usize), 0..12)) {
        let rows: Vec<_> = rows.into_iter().map(|(key, name, length)| (key, name.repeat(length / 10))).collect();
        let show = |list: &mut Element<'_>, row: &(u8, String)| list.element("card", |card| card.text("name", &row.1));
        let list = XmlReply::stream_list("page", "cards", stream::iter(rows.clone()).map(Ok), |row| row.0, show);
        let list = block_on(list).unwrap();
        let expected = XmlReply::new("page", |page| {
            for run in rows.chunk_by(|one, other| one.0 == other.0) {
                page.element("cards", |cards| run.iter().for_each(|row| show(cards, row)));
            }
        });
        prop_assert_eq!(list.map(text_of), (!rows.is_empty()).then(|| text_of(expected)));
    }

    /// The text has the same value, at least one decimal, no further trailing zeros, and no exponent.
    #[test]
    fn money_prints_as_a_plain_decimal(unscaled: i128, scale in 0i64..30) {
        let amount = BigDecimal::new(unscaled.into(), scale);
        let text = Money::from(amount.clone()).to_plain_string();
        prop_assert_eq!(BigDecimal::from_str(&text).unwrap(), amount);
        let (_, decimals) = text.split_once('.').unwrap();
        prop_assert!(decimals == "0" || !decimals.ends_with('0'), "{}", text);
        prop_assert!(text.chars().all(|char| char.is_ascii_digit() || "-.".contains(char)), "{}", text);
    }
}

const NUMBER_LIKE: &str =
    "[ \\t]{0,2}[-+]{0,2}[0-9_]{0,24}[.]{0,2}[0-9_]{0,20}([eE][-+]?[0-9_]{0,2})?[0-9a-e_. \u{0663}]{0,3}";
/// Parameters whose values are hashed unchanged.
const HASHED: [&str; 12] = [
    "email",
    "id",
    "quantity",
    "pin",
    "amount",
    "callerid",
    "cardgroup_id",
    "name",
    "currency",
    "number",
    "card_id",
    "cc_group_id",
];

/// Returns the longest prefix of a text that meets the condition, without its underscores, and the rest. The simple
/// reference for number parsing: it tries every prefix.
fn longest_prefix(text: &str, condition: fn(&str) -> bool) -> (String, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let ends = text.char_indices().map(|(index, _)| index).chain([text.len()]);
    let end = ends.rev().find(|end| condition(&text[..*end])).unwrap_or(0);
    (text[..end].replace('_', ""), &text[end..])
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

/// Digits with at most one underscore between two digits.
fn is_digits(text: &str) -> bool {
    text.split('_').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_integer(text: &str) -> bool {
    is_digits(unsigned(text))
}

fn is_decimal_number(text: &str) -> bool {
    let text = unsigned(text);
    let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    (is_digits(whole) || whole.is_empty() && number.starts_with('.')) && is_digits(fraction) && is_integer(exponent)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn text_of(reply: XmlReply) -> String {
    let bytes = match reply {
        XmlReply::Buffered(text) | XmlReply::Replayed(text) => text,
        XmlReply::Streamed(chunks) | XmlReply::ReplayedStream(chunks) => block_on(chunks.try_concat()).unwrap(),
        XmlReply::File(file) => block_on(file.text.try_concat()).unwrap(),
    };
    String::from_utf8(bytes).unwrap()
}

/// Text that often contains control characters, characters that XML forbids, and characters that XML escapes.
fn text() -> impl Strategy<Value = String> {
    let special =
        prop_oneof![Just('\u{fffe}'), Just('\u{ffff}'), Just('\u{7f}'), Just('&'), Just('<'), Just('>'), Just('\r')];
    let char = prop_oneof![any::<char>(), (0..32u8).prop_map(char::from), special];
    proptest::collection::vec(char, 0..20).prop_map(String::from_iter)
}

/// Parses a query string.
fn params(query: &str) -> Params {
    let headers = HeaderMap::new();
    block_on(Params::read(None, query, &headers, Bytes::new(), 100)).unwrap()
}

/// The SQL function prints amounts for audit rows, `Money` prints them for replies. Both must print the same text.
#[tokio::test]
async fn plain_text_in_sql_prints_the_same_as_money() {
    let server = server().await;
    for amount in
        ["0", "10", "10.50", "-3", "0.000000000000001", "123456789012345.123456789012345", "1e20", "-0.10", "100"]
    {
        let amount = BigDecimal::from_str(amount).unwrap();
        let printed: String =
            sqlx::query_scalar("select plain_text($1)").bind(&amount).fetch_one(&server.pool).await.unwrap();
        assert_eq!(printed, Money::from(amount).to_plain_string());
    }
}

/// The sale statement uses `single_tax_rate`, which is null if a second tax is enabled. Other statements use the full
/// formula `tax_rate`.
#[tokio::test]
async fn single_tax_rate_equals_tax_rate() {
    let server = server().await;
    // Every combination of enabled and missing taxes.
    server
        .execute(
            "delete from taxes;
             insert into taxes (tax1_enabled, tax2_enabled, tax3_enabled, tax4_enabled, tax1_value, tax2_value, compound_tax)
             select one, two, three, four, value, 5, compound
             from generate_series(0, 1) one, generate_series(0, 2) two, generate_series(0, 1) three, generate_series(0, 1) four,
                 unnest(array[null, 0, 19, -100, 0.000000000000001, 123456789012345.123456789012345]) value,
                 unnest(array[null, 0, 1]) compound",
        )
        .await;
    const COMPARISON: &str = "select 1 in (tax2_enabled, tax3_enabled, tax4_enabled) as several, count(*), bool_and(single_tax_rate(t) is null),
            bool_and(single_tax_rate(t) = tax_rate(t))
        from taxes t group by several order by several";
    server.assert_rows(COMPARISON, &["false|72|false|true", "true|360|true|∅"]).await;
}

/// Literal hashes from the published pages and the contract.
#[test]
fn published_hashes() {
    for (query, key, expected) in [
        ("id=6&quantity=2", "456789", "37086d860581fabc278413cd1a417d5c079f6eba"),
        ("callerid=123", "456789", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("", "secret", "e5e9fa1ba31ecd1ae84f75caaa474f3a663f05f4"),
        ("id=6", "456789", "67df827dec80a7241fb3fc4de22a90e62c5e8d93"),
        ("id=1", "secret", "bc2f114099d16656d37e45fd9e8744cb9386d462"),
        ("cardgroup_id=1&callerid=4444&amount=100", "secret", "c30c6ca5d3f0e1376203f74ea0b2a3a89993fe33"),
        ("amount=300&callerid=5555&cardgroup_id=3", "secret", "42b0789fa7083868af5c190da673cc9669e5c92f"),
        ("amount=150&callerid=6666&cardgroup_id=1&pin=6930", "secret", "fb64c251c3d9ecc8572583030ed5be468474cbc8"),
        ("pin=7856&amount=100&callerid=4444&cardgroup_id=3", "secret", "5006db8b8561ba1d8ecc855f811661133b0c095d"),
        (
            "period_end=1266537599&s_user=0&period_start=1136073600",
            "secret",
            "31b1c56a63668aee98bbf5c9b52b8f43eaacf5a2",
        ),
        (
            "user_id=123&period_start=125245&period_end=4580&calltype=answered&q=1",
            "Very Sercet Key",
            "b93c35d5c6183288322122561a3da7e09abb63b7",
        ),
    ] {
        assert_eq!(
            hex::encode(HashRule::ParamOrder(&[]).signed_params(&params(query), "")[0].digest(key)),
            expected,
            "{query}"
        );
    }
}

/// Some parameters are hashed only if their value is valid (`hash-parameters.md`).
#[test]
fn invalid_values_are_left_out_of_the_hash() {
    for (query, hashed) in [
        ("user_id=007", "7"),
        ("user_id=000", "0"),
        ("user_id=7x", ""),
        ("tariff_id=", "0"),
        ("mtype=", ""),
        ("only_did=-1", ""),
        ("mtype=007", "007"),
        ("mtype=all", ""),
        ("device=all", "all"),
        ("s_hgc=12", "12"),
        ("s_did=ALL", ""),
        ("balance=-1.5", "-1.5"),
        ("balance=1e5", ""),
        ("direction=outgoing", "outgoing"),
        ("direction=sideways", ""),
        ("users=1,2", "1,2"),
        ("users=prepaid", "prepaid"),
        ("users=unknown", ""),
        ("block=untrue", "untrue"),
        ("block=1", ""),
        ("calltype=missed_inc_all", "missed_inc_all"),
        ("calltype=lost", ""),
        ("email=", ""),
        ("unknown=1", ""),
        ("quantity=2&id=6&email=a@b.c", "a@b.c62"),
    ] {
        assert_eq!(
            hex::encode(HashRule::ParamOrder(&[]).signed_params(&params(query), "")[0].digest("k")),
            hash(hashed, "k"),
            "{query}"
        );
    }
}
