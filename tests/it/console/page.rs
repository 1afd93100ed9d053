//! A page as a reader sees it.

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};

/// Elements within a line of text. Other elements separate words.
const INLINE: [&str; 13] = ["a", "abbr", "b", "bdi", "code", "em", "i", "kbd", "small", "span", "strong", "sub", "sup"];

/// A reply of the console.
#[derive(Debug, Clone)]
pub struct Page {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body, as text.
    pub body: String,
    /// The header `Location`.
    pub location: Option<String>,
}

impl Page {
    pub fn new(status: StatusCode, headers: HeaderMap, bytes: &Bytes) -> Self {
        let location = headers.get("location").map(|location| location.to_str().unwrap().to_owned());
        Self { status, headers, body: String::from_utf8_lossy(bytes).into_owned(), location }
    }

    /// The visible text: without tags and the head, with one space where the source has white space or a block ends.
    pub fn text(&self) -> String {
        visible_text(&self.body)
    }

    /// Asserts that the visible text contains `text`.
    #[track_caller]
    pub fn assert_contains(&self, text: &str) {
        let visible = self.text();
        assert!(visible.contains(text), "no {text:?} on the page ({}):\n{visible}", self.status);
    }

    /// Asserts that the visible text does not contain `text`. For secrets see [`assert_secret`](Self::assert_secret).
    #[track_caller]
    pub fn assert_lacks(&self, text: &str) {
        let visible = self.text();
        assert!(!visible.contains(text), "{text:?} on the page ({}):\n{visible}", self.status);
    }

    /// Asserts that neither the headers nor the source contain `secret`, also not in attributes.
    #[track_caller]
    pub fn assert_secret(&self, secret: &str) {
        assert!(!self.body.contains(secret), "{secret:?} in the page ({}):\n{}", self.status, self.body);
        assert!(!self.source().contains(secret), "{secret:?} in the page:\n{}", self.body);
        let headers = format!("{:?}", self.headers);
        assert!(!headers.contains(secret), "{secret:?} in {headers}");
    }

    /// The source, with character references replaced.
    pub fn source(&self) -> String {
        decode_entities(&self.body)
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The cookie that the reply sets, as the header `Cookie` of the next requests.
    pub fn cookie(&self) -> String {
        self.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
    }

    /// The token of the session, from the first form.
    pub fn token(&self) -> String {
        self.field_value("token")
    }

    /// The value of the first field with this name.
    pub fn field_value(&self, name: &str) -> String {
        let tag = self.body.split('<').find(|tag| tag.contains(&format!("name=\"{name}\"")));
        let tag = tag.unwrap_or_else(|| panic!("no field {name:?} in the page:\n{}", self.body));
        let value = tag.split_once("value=\"").and_then(|(_, rest)| rest.split_once('"'));
        decode_entities(value.unwrap_or_default().0)
    }
}

fn visible_text(html: &str) -> String {
    let html = html.split_once("</head>").map_or(html, |(_, body)| body);
    let mut text = String::new();
    for (index, part) in html.split('<').enumerate() {
        let (tag, content) = if index == 0 { ("", part) } else { split_tag(part) };
        let name = tag.trim_start_matches('/').split(|char: char| !char.is_ascii_alphanumeric()).next().unwrap();
        if !INLINE.contains(&name) {
            text.push(' ');
        }
        text.push_str(content);
    }
    // No-break spaces count as white space too.
    decode_entities(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Splits what follows `<` into the tag and the text behind it. A `>` in a quoted attribute is part of the tag.
fn split_tag(part: &str) -> (&str, &str) {
    let mut quoted = false;
    let end = part.char_indices().find(|(_, char)| {
        quoted ^= *char == '"';
        *char == '>' && !quoted
    });
    end.map_or((part, ""), |(end, _)| (&part[..end], &part[end + 1..]))
}

/// Replaces character references by their characters.
fn decode_entities(text: &str) -> String {
    let mut parts = text.split('&');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let reference = part.split_once(';').and_then(|(name, rest)| Some((decode_entity(name)?, rest)));
        match reference {
            Some((char, rest)) => decoded.extend([char.to_string().as_str(), rest]),
            None => decoded.extend(["&", part]),
        }
    }
    decoded
}

fn decode_entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix("#x") {
        return char::from_u32(u32::from_str_radix(number, 16).ok()?);
    }
    if let Some(number) = name.strip_prefix('#') {
        return char::from_u32(number.parse().ok()?);
    }
    let names = [
        ("amp", '&'),
        ("lt", '<'),
        ("gt", '>'),
        ("quot", '"'),
        ("apos", '\''),
        ("nbsp", '\u{a0}'),
        ("ndash", '–'),
        ("hellip", '…'),
        ("times", '×'),
        ("minus", '−'),
        ("rarr", '→'),
    ];
    names.into_iter().find(|(known, _)| *known == name).map(|(_, char)| char)
}

#[test]
fn the_text_of_a_page_has_no_tags() {
    let html = r#"<html><head><title>no</title></head><body><h1>Card  &amp;
        more</h1><p>a<b title="x > y">b</b>c &#x27;&#39;&lt;i&gt;</p><td>1</td><td>2&nbsp;3</td> & ; &x;</body>"#;
    assert_eq!(visible_text(html), "Card & more abc ''<i> 1 2 3 & ; &x;");
}
