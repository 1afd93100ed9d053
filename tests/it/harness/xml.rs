//! Parses replies as a client's XML parser does.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Name and text of the elements without children, in document order.
pub type Leaves = Vec<(String, String)>;

/// Parses a reply, which must be one well-formed document after an XML declaration.
///
/// # Errors
/// Describes the first violation.
pub fn parse_leaves(xml: &str) -> Result<Leaves, String> {
    let body = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").ok_or("no declaration")?;
    if let Some(char) = body.chars().find(|char| !is_allowed(*char)) {
        return Err(format!("{char:?} is not allowed in XML"));
    }
    let mut reader = Reader::from_str(body);
    let (mut leaves, mut open, mut roots) = (Leaves::new(), Vec::new(), 0);
    let mut text = None;
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => {
                roots += usize::from(open.is_empty());
                open.push(start.name().as_ref().to_owned());
                text = Some(String::new());
            }
            Event::Empty(empty) => {
                roots += usize::from(open.is_empty());
                leaves.push((empty.name().as_ref().to_owned(), String::new()));
                text = None;
            }
            Event::End(_) => {
                let name = open.pop().ok_or("end tag without a start tag")?;
                leaves.extend(text.take().map(|text| (name, text)));
            }
            Event::Text(chunk) => append_text(&mut text, &chunk, &open)?,
            Event::GeneralRef(entity) => match entity.as_ref() {
                "amp" => append_text(&mut text, "&", &open)?,
                "lt" => append_text(&mut text, "<", &open)?,
                "gt" => append_text(&mut text, ">", &open)?,
                // Only `tariff_rates_get` escapes quotation marks.
                "quot" => append_text(&mut text, "\"", &open)?,
                "#39" => append_text(&mut text, "'", &open)?,
                other => return Err(format!("unknown entity {other:?}")),
            },
            Event::Eof if open.is_empty() && roots == 1 => return Ok(leaves),
            Event::Eof => return Err(format!("{roots} root elements; unclosed elements: {open:?}")),
            other => return Err(format!("unexpected {other:?}")),
        }
    }
}

/// Whether an XML 1.0 document may contain the character.
fn is_allowed(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Replaces the characters that XML forbids by U+FFFD, as the server does.
pub fn replace_disallowed_chars(text: &str) -> String {
    text.chars().map(|char| if is_allowed(char) { char } else { '\u{fffd}' }).collect()
}

/// Adds `chunk` to the text of the innermost open element. Between elements only white space is allowed.
fn append_text(text: &mut Option<String>, chunk: &str, open: &[String]) -> Result<(), String> {
    match text {
        Some(text) if !open.is_empty() => text.push_str(chunk),
        _ if chunk.trim().is_empty() => {}
        _ => return Err(format!("text between elements: {chunk:?}")),
    }
    Ok(())
}
