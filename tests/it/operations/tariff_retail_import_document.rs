//! `tariff_retail_import`: how its XML document is read, without the server.

use std::io::Cursor;

use mortise::operations::tariff::retail_import::document::{
    self, Destination, Head, Position, Rate, ReadError, ReadFault,
};
use proptest::prelude::*;

fn read(document: &[u8]) -> Result<(Head, Vec<Destination>), ReadError> {
    let mut destinations = Vec::new();
    let head = document::read(Cursor::new(document), |destination| {
        destinations.push(destination);
        true
    })?;
    Ok((head, destinations))
}

fn is_malformed(document: &str) -> bool {
    matches!(read(document.as_bytes()), Err(ReadError { fault: ReadFault::Malformed, position: Some(_) }))
}

/// A document with this text inside the root element.
fn tariff(content: &str) -> String {
    format!("<tariff><id>2</id><name>Retail</name>{content}</tariff>")
}

#[test]
fn reads_all_texts_as_sent() {
    let (head, destinations) = read(
        b"<tariff><destinations><destination>
            <rates><day_type>WD</day_type><rate_price> 0.02 </rate_price><rate_round_by>1</rate_round_by>
              <rate_end_time>21:59:59</rate_end_time><rate_start_time>00:00:00</rate_start_time>
              <rate_duration>300</rate_duration><rate_type>minute</rate_type></rates>
            <destination_group_type>FIX</destination_group_type>
            <destination_group_name>Lithuania &amp; &#x4c;atvia</destination_group_name>
            <rates/>
          </destination><destination/></destinations><name>
Retail</name><id>2</id></tariff>",
    )
    .unwrap();
    let expected = Head { id: "2".into(), name: "\nRetail".into(), destinations: 2, rates: 2, destination_rates: 2 };
    assert_eq!(head, expected);
    let rate = Rate {
        price: " 0.02 ".into(),
        round_by: "1".into(),
        duration: "300".into(),
        rate_type: "minute".into(),
        start_time: "00:00:00".into(),
        end_time: "21:59:59".into(),
        day_type: "WD".into(),
        line: 2,
    };
    let first = Destination {
        group_name: "Lithuania & Latvia".into(),
        group_type: "FIX".into(),
        rates: vec![rate, Rate { line: 7, ..Rate::default() }],
        line: 1,
    };
    assert_eq!(destinations, [first, Destination { line: 8, ..Destination::default() }]);
}

#[test]
fn ignores_what_does_not_count() {
    let document = "\u{feff} \r\n<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>
        <!DOCTYPE tariff SYSTEM \"file:///etc/passwd\" [<!ENTITY a \"b\"><!ENTITY x SYSTEM \"http://127.0.0.1/\">]>
        <?php echo 1 ?><!-- a comment --><tariff version=\"1\" note='&lt;'>stray &amp; text
        <id a=\"b\">2<!-- comment --></id><name><![CDATA[<Retail>]]><b>no</b> é</name><id2>3</id2>
        <destination><destination_group_name>outside</destination_group_name></destination>
        <destinations>text<other><destination/></other><destination>text<destination_group_name/></destination>
        </destinations></tariff>\n <!-- end --> \n";
    let (head, destinations) = read(document.as_bytes()).unwrap();
    assert_eq!((head.id.as_str(), head.name.as_str()), ("2", "<Retail> é"));
    assert_eq!(destinations, [Destination { line: 7, ..Destination::default() }]);
}

#[test]
fn malformed_documents() {
    let deep = |levels: usize| tariff(&format!("{}{}", "<a>".repeat(levels - 1), "</a>".repeat(levels - 1)));
    assert!(!is_malformed(&deep(16)));
    let destination =
        |content: &str| tariff(&format!("<destinations><destination>{content}</destination></destinations>"));
    let billion_laughs = format!(
        "<!DOCTYPE tariff [<!ENTITY a0 \"ha\">{}]>{}",
        (1..30).map(|n| format!("<!ENTITY a{n} \"&a{};&a{};\">", n - 1, n - 1)).collect::<String>(),
        tariff("<x>&a29;</x>")
    );
    let with_attributes =
        |count: usize| tariff(&format!("<a {}/>", (0..count).map(|index| format!("a{index}='' ")).collect::<String>()));
    assert!(!is_malformed(&with_attributes(256)));
    for document in [
        "",
        " \n",
        "text",
        "\u{feff}",
        "<a/>",
        "<Tariff/>",
        "<tariff>",
        "<tariff></tarif>",
        "</tariff>",
        "<tariff/><tariff/>",
        "<tariff/>text",
        "<tariff/>&amp;",
        "text<tariff/>",
        "<![CDATA[]]><tariff/>",
        "<tariff a='1' a='2'/>",
        "<tariff a/>",
        "<tariff a=1/>",
        "<tariff a='&undefined;'/>",
        "<tariff a='<'/>",
        "<tariff 1='a'/>",
        "<tariff><1/></tariff>",
        "<tariff>&undefined;</tariff>",
        "<tariff>&#0;</tariff>",
        "<tariff>&#x1F;</tariff>",
        "<tariff>&#+65;</tariff>",
        "<tariff>&#;</tariff>",
        "<tariff>&#xD800;</tariff>",
        "<tariff>&#99999999999;</tariff>",
        "<tariff>&</tariff>",
        "<tariff>& </tariff>",
        "<tariff>]]></tariff>",
        "<tariff>\u{1}</tariff>",
        "<tariff>\0</tariff>",
        "<tariff>\u{fffe}</tariff>",
        "<tariff><!-- a -- b --></tariff>",
        "<tariff><!-- a </tariff>",
        "<tariff><![CDATA[ </tariff>",
        "<tariff><?xml version='1.0'?></tariff>",
        "<tariff/><!DOCTYPE tariff>",
        "<!DOCTYPE tariff><!DOCTYPE tariff><tariff/>",
        "<tariff",
        "<tariff><id",
        "<tariff><id>2</id></tariff",
        &deep(17),
        &deep(100_000),
        "<tariff><id>1</id><id>1</id></tariff>",
        "<tariff><id/><id/></tariff>",
        "<tariff><name/><name/></tariff>",
        "<tariff><destinations/><destinations/></tariff>",
        &destination("<destination_group_name/><destination_group_name/>"),
        &destination("<destination_group_type/><destination_group_type/>"),
        &destination("<rates><day_type/><day_type/></rates>"),
        &billion_laughs,
        &with_attributes(257),
        // A piece of more than 1 MiB.
        &format!("{}<tariff/>", " ".repeat(1_100_000)),
        &tariff(&format!("<!--{}-->", "a".repeat(1_100_000))),
        &tariff(&format!("<a b='{}'/>", "a".repeat(1_100_000))),
        &destination(&format!("<destination_group_name>{}</destination_group_name>", "a<!---->".repeat(1_100_000))),
    ] {
        assert!(is_malformed(document), "{:?}", document.chars().take(200).collect::<String>());
    }
}

/// The place where the piece starts that cannot be read: markup, or text without the space before it.
#[test]
fn faults_have_a_place() {
    for (document, line, column) in [
        (b"<tariff>\n  <id>2</id>\n  <name>x</nam>\n</tariff>".as_slice(), 3, 10),
        (b"\xef\xbb\xbf<tariff>\r\n<id>2</name>", 2, 6),
        ("<tariff>\n<name>\u{17c}\u{1f0a1}</nam>".as_bytes(), 2, 9),
        (b"<tariff>\n<id>2</id>\n", 3, 1),
        (b"<tariff>\n <id\n a='1'\n", 2, 2),
        (b"<tariff>\n<id>2</id>\n <id>2</id></tariff>", 3, 2),
        (b"<tariff/>\n\n  text", 3, 3),
        (b"<tariff>\n<name>a &undefined; b</name></tariff>", 2, 9),
        (b"<tariff>\n<name>\n  \xe9</name></tariff>", 2, 7),
        (b"\n\n", 3, 1),
    ] {
        let error = read(document).unwrap_err();
        let expected = Some(Position { line, column });
        assert_eq!(error.position, expected, "{}", String::from_utf8_lossy(document));
        assert!(error.to_string().starts_with(&format!("line {line}, column {column}: the XML document is ")));
    }
}

#[test]
fn other_encodings_are_not_read() {
    assert!(matches!(read(b"<tariff><name>\xe9</name></tariff>"), Err(ReadError { fault: ReadFault::NotUtf8, .. })));
    let text = tariff("");
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(read(&utf16).is_err());
    assert!(read(&[b"\xff\xfe", utf16.as_slice()].concat()).is_err());
}

/// A destination without an end: the reader keeps neither the rates beyond its limit nor endless text in memory.
#[test]
fn one_destination_keeps_a_limited_number_of_rates() {
    let rates = "<rates/>".repeat(25_000);
    let (head, destinations) =
        read(tariff(&format!("<destinations><destination>{rates}</destination></destinations>")).as_bytes()).unwrap();
    assert_eq!((head.rates, head.destination_rates), (25_000, 25_000));
    assert_eq!(destinations[0].rates.len(), document::DESTINATION_RATES_MAX);
    let field = format!("<rates><rate_price>{}</rate_price></rates>", "1".repeat(900_000));
    assert!(is_malformed(&tariff(&format!(
        "<destinations><destination>{}</destination></destinations>",
        field.repeat(12)
    ))));
}

/// A reply can list each rate with the name of its destination.
#[test]
fn a_long_name_is_not_repeated_for_many_rates() {
    let document = |element: &str, rates: usize| {
        let name = format!("<{element}>{}</{element}>", "x".repeat(512 * 1024));
        tariff(&format!("<destinations><destination>{}{name}</destination></destinations>", "<rates/>".repeat(rates)))
    };
    for element in ["destination_group_name", "destination_group_type"] {
        assert_eq!(read(document(element, 16).as_bytes()).unwrap().0.rates, 16);
        assert!(is_malformed(&document(element, 17)));
    }
}

#[test]
fn the_receiver_can_stop() {
    let document = tariff("<destinations><destination/><destination/></destinations>");
    let mut count = 0;
    let result = document::read(Cursor::new(document), |_| {
        count += 1;
        false
    });
    assert!(matches!(result, Err(ReadError { fault: ReadFault::Stopped, .. })));
    assert_eq!(count, 1);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
        let _ = read(&bytes);
    }

    /// Texts made of pieces of documents get far into the parser.
    #[test]
    fn no_pieces_of_documents_make_the_reader_panic(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40),
    ) {
        let document = pieces.concat();
        let in_root = format!("<tariff>{document}</tariff>");
        for document in [document, in_root] {
            if let Ok((head, destinations)) = read(document.as_bytes()) {
                prop_assert_eq!(head.destinations, destinations.len());
                prop_assert_eq!(head.rates, destinations.iter().map(|destination| destination.rates.len()).sum::<usize>());
            }
        }
    }

    #[test]
    fn any_name_is_read_as_it_is_written(name in "[^\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ufffe\\uffff]*") {
        let escaped = quick_xml::escape::escape(name.as_str());
        let document = format!("<tariff><name>{escaped}</name></tariff>");
        prop_assert_eq!(read(document.as_bytes()).unwrap().0.name, name);
    }
}

const PIECES: &[&str] = &[
    "<tariff>",
    "</tariff>",
    "<id>",
    "</id>",
    "<name/>",
    "<destinations>",
    "</destinations>",
    "<destination>",
    "</destination>",
    "<rates>",
    "</rates>",
    "<rates/>",
    "<rate_price>",
    "</rate_price>",
    "1",
    " ",
    "&amp;",
    "&#65;",
    "&x;",
    "&",
    "<",
    ">",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?xml ?>",
    "<?a",
    "?>",
    "<!DOCTYPE a [",
    "]>",
    "'",
    "\"",
    "<a b='c'>",
    "</a>",
    "\u{feff}",
    "\0",
];
