//! Numbers as the original reads them from text: as far as the digits go, and the rest ignored (`http.md`, "Parameters").

use std::borrow::Cow;

use bigdecimal::BigDecimal;

/// More digits than any column has: a number is cut there, so that reading it costs nothing.
const DIGITS_MAX: usize = 60;

/// The sign and the leading digits of `text`, without leading zeros (empty: zero): white space and a sign may stand before
/// them, one `_` may stand between two of them; ASCII digits only. `None` where there is no digit at all.
pub fn parse_digits(text: &str) -> Option<(Sign, String)> {
    let (minus, text) = split_sign(text.trim_start_matches(WHITESPACE));
    let (digits, _) = split_digits(text);
    let sign = if minus { Sign::Minus } else { Sign::Plus };
    (!digits.is_empty()).then(|| (sign, digits.trim_start_matches('0').to_owned()))
}

/// What stood before the digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Sign {
    Plus,
    Minus,
}

/// A whole number: `"VFT"` is 0, `"1.9"` is 1, `" 3"` is 3, `"12abc"` is 12. Beyond the type's range: its end.
pub fn parse_integer(text: &str) -> i64 {
    let (minus, text) = split_sign(text.trim_start_matches(WHITESPACE));
    let (digits, _) = split_digits(text);
    let size = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(i64::MAX) };
    if minus { -size } else { size }
}

/// A decimal number: `"1.5x"` is 1.5, `"abc"` is 0, `"1e2"` is 100. What is beyond every column stays beyond it.
pub fn parse_decimal(text: &str) -> BigDecimal {
    DecimalParts::parse(text).map_or_else(|| BigDecimal::from(0), |decimal| decimal.to_big_decimal())
}

/// Whether the text is a decimal number and nothing else.
pub fn is_decimal(text: &str) -> bool {
    DecimalParts::parse(text).is_some_and(|decimal| decimal.rest.trim().is_empty())
}

/// Whether the text is ASCII digits and nothing else.
pub fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The parts of a decimal number in text.
struct DecimalParts<'a> {
    is_negative: bool,
    integer_part: Cow<'a, str>,
    fraction: Cow<'a, str>,
    exponent: i64,
    rest: &'a str,
}

impl<'a> DecimalParts<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (minus, text) = split_sign(text.trim_start_matches(WHITESPACE));
        let (whole, mut rest) = split_digits(text);
        let mut fraction = Cow::Borrowed("");
        if let Some(behind) = rest.strip_prefix('.') {
            let (digits, further) = split_digits(behind);
            // A point without a digit behind it is part of nothing, unless it ends the number.
            if !digits.is_empty() || further.trim().is_empty() {
                (fraction, rest) = (digits, further);
            }
        }
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut exponent = 0;
        if let Some(behind) = rest.strip_prefix(['e', 'E']) {
            let (minus, digits) = split_sign(behind);
            let (digits, further) = split_digits(digits);
            if !digits.is_empty() {
                let size = digits.parse().unwrap_or(i64::MAX);
                (exponent, rest) = (if minus { -size } else { size }, further);
            }
        }
        Some(Self { is_negative: minus, integer_part: whole, fraction, exponent, rest })
    }

    fn to_big_decimal(&self) -> BigDecimal {
        let whole = self.integer_part.trim_start_matches('0');
        let most = i64::try_from(DIGITS_MAX).unwrap_or(i64::MAX);
        let digits: String = whole.chars().chain(self.fraction.chars()).collect();
        let point = i64::try_from(whole.len()).unwrap_or(most).saturating_add(self.exponent);
        let zero = digits.bytes().all(|digit| digit == b'0');
        let value = if zero || point < -most {
            BigDecimal::from(0)
        } else if point > most {
            BigDecimal::new(1.into(), -most)
        } else {
            let kept: String = digits.chars().take(2 * DIGITS_MAX).collect();
            let scale = i64::try_from(kept.len()).unwrap_or(most) - point;
            BigDecimal::new(kept.parse().unwrap_or_default(), scale)
        };
        if self.is_negative { -value } else { value }
    }
}

const WHITESPACE: [char; 6] = [' ', '\t', '\n', '\u{b}', '\u{c}', '\r'];

/// Whether a minus stands in front, and what is behind the sign.
fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// The digits in front, one `_` between two of them skipped, and what is behind.
fn split_digits(text: &str) -> (Cow<'_, str>, &str) {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut end = 0;
    while is_digit(end) || end > 0 && bytes.get(end) == Some(&b'_') && is_digit(end + 1) {
        end += 1;
    }
    let (run, rest) = text.split_at(end);
    (if run.contains('_') { run.replace('_', "").into() } else { run.into() }, rest)
}
