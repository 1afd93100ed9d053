//! Numbers as the original reads them from text: as far as the digits go, and the rest ignored (`http.md`, "Parameters").

/// The sign and the leading digits of `text`, without leading zeros (empty: zero): white space and a sign may stand before
/// them, one `_` may stand between two of them; ASCII digits only. `None` where there is no digit at all.
pub fn digits(text: &str) -> Option<(Sign, String)> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    let (sign, text) = match text.as_bytes().first() {
        Some(b'-') => (Sign::Minus, &text[1..]),
        Some(b'+') => (Sign::Plus, &text[1..]),
        _ => (Sign::Plus, text),
    };
    let mut digits = String::new();
    let mut bytes = text.bytes().peekable();
    let mut any = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'0' if digits.is_empty() => any = true,
            b'0'..=b'9' => {
                any = true;
                digits.push(char::from(byte));
            }
            b'_' if any && bytes.peek().is_some_and(u8::is_ascii_digit) => {}
            _ => break,
        }
    }
    any.then_some((sign, digits))
}

/// What stood before the digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Sign {
    Plus,
    Minus,
}

/// A whole number: `"VFT"` is 0, `"1.9"` is 1, `" 3"` is 3, `"12abc"` is 12. Beyond the type's range: its end.
pub fn integer(text: &str) -> i64 {
    let Some((sign, digits)) = digits(text) else { return 0 };
    let size = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(i64::MAX) };
    match sign {
        Sign::Plus => size,
        Sign::Minus => -size,
    }
}
