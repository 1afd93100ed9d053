//! XML as a client's parser reads it.

use quick_xml::Reader;
use quick_xml::events::Event;

/// The elements that hold no others, by name and text, in their order.
pub type Leaves = Vec<(String, String)>;

/// Reads a reply, which must be one well-formed document with the declaration in front; else says what is wrong.
pub fn parse_leaves(xml: &str) -> Result<Leaves, String> {
    let body = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").ok_or("no declaration")?;
    if let Some(char) = body.chars().find(|char| !is_allowed(*char)) {
        return Err(format!("{char:?} is not for XML"));
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
                let name = open.pop().ok_or("an end without a beginning")?;
                leaves.extend(text.take().map(|text| (name, text)));
            }
            Event::Text(more) => put(&mut text, &more, &open)?,
            Event::GeneralRef(entity) => match entity.as_ref() {
                "amp" => put(&mut text, "&", &open)?,
                "lt" => put(&mut text, "<", &open)?,
                "gt" => put(&mut text, ">", &open)?,
                other => return Err(format!("the entity {other:?}")),
            },
            Event::Eof if open.is_empty() && roots == 1 => return Ok(leaves),
            Event::Eof => return Err(format!("{roots} roots, and open at the end: {open:?}")),
            other => return Err(format!("{other:?}")),
        }
    }
}

/// What XML 1.0 lets a document contain.
fn is_allowed(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// A text as a document shows it.
pub fn replace_disallowed_chars(text: &str) -> String {
    text.chars().map(|char| if is_allowed(char) { char } else { '\u{fffd}' }).collect()
}

/// Beside elements only white space may stand.
fn put(text: &mut Option<String>, more: &str, open: &[String]) -> Result<(), String> {
    match text {
        Some(text) if !open.is_empty() => text.push_str(more),
        _ if more.trim().is_empty() => {}
        _ => return Err(format!("text beside elements: {more:?}")),
    }
    Ok(())
}
