//! Parses numbers from text as MOR does: the leading digits count, and the rest is ignored (`http.md`, "Parameters").

use std::borrow::Cow;

use bigdecimal::BigDecimal;

/// Maximum number of digits before and after the decimal point, more than any column has, so that long input cannot
/// make the parsing slow.
const DIGITS_MAX: usize = 60;
/// Limit of the digits of a card's number, the length of MOR's column.
const CARD_NUMBER_DIGITS_MAX: usize = 255;

/// Returns the sign and the leading digits of `text`, without leading zeros (empty for 0); `None` without a digit.
/// White space and a sign may precede the digits, and one `_` may separate two of them. Only ASCII digits count.
pub fn parse_digits(text: &str) -> Option<(Sign, String)> {
    let (is_negative, text) = split_sign(text.trim_start_matches(WHITESPACE));
    let (digits, _) = split_digits(text);
    let sign = if is_negative { Sign::Minus } else { Sign::Plus };
    (!digits.is_empty()).then(|| (sign, digits.trim_start_matches('0').to_owned()))
}

/// The sign before the digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum Sign {
    Plus,
    Minus,
}

/// Parses an integer: `"VFT"` is 0, `"1.9"` is 1, `" 3"` is 3, `"12abc"` is 12. Saturates at the limits of the type.
pub fn parse_integer(text: &str) -> i64 {
    let (is_negative, text) = split_sign(text.trim_start_matches(WHITESPACE));
    let (digits, _) = split_digits(text);
    let magnitude = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(i64::MAX) };
    if is_negative { -magnitude } else { magnitude }
}

/// Parses a decimal number: `"1.5x"` is 1.5, `"abc"` is 0, `"1e2"` is 100. A number that is out of range for every
/// column becomes 10^60, which is out of range too.
pub fn parse_decimal(text: &str) -> BigDecimal {
    DecimalParts::parse(text).map_or_else(|| BigDecimal::from(0), |decimal| decimal.to_big_decimal())
}

/// Whether the text is only a decimal number; white space around it is allowed.
pub fn is_decimal(text: &str) -> bool {
    DecimalParts::parse_whole(text).is_some()
}

/// Parses a text that is only a decimal number; white space around it is allowed. `None`: any other text, such as
/// `"1.5x"`, `"19,5"` or `"NaN"`.
pub fn parse_whole_decimal(text: &str) -> Option<BigDecimal> {
    DecimalParts::parse_whole(text).map(|decimal| decimal.to_big_decimal())
}

/// Returns the value of a card's number, as digits without leading zeros (`"0"` for 0). `None`: the text is not only a
/// number, or the number is negative, has a fraction, or has more digits than any card's number.
pub fn parse_card_number(text: &str) -> Option<String> {
    DecimalParts::parse_whole(text)?.to_card_number()
}

/// Whether the text consists of ASCII digits and is not empty.
pub fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The parts of a decimal number in a text.
struct DecimalParts<'a> {
    is_negative: bool,
    integer_part: Cow<'a, str>,
    fraction: Cow<'a, str>,
    exponent: i64,
    /// The text after the number.
    rest: &'a str,
}

impl<'a> DecimalParts<'a> {
    /// Parses a text that has only white space besides the number.
    fn parse_whole(text: &'a str) -> Option<Self> {
        Self::parse(text).filter(|decimal| decimal.rest.trim().is_empty())
    }

    fn parse(text: &'a str) -> Option<Self> {
        let (is_negative, text) = split_sign(text.trim_start_matches(WHITESPACE));
        let (integer_part, mut rest) = split_digits(text);
        let mut fraction = Cow::Borrowed("");
        if let Some(after_point) = rest.strip_prefix('.') {
            let (digits, remainder) = split_digits(after_point);
            // A point without digits after it belongs to the number only if the text ends there.
            if !digits.is_empty() || remainder.trim().is_empty() {
                (fraction, rest) = (digits, remainder);
            }
        }
        if integer_part.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut exponent = 0;
        if let Some(after_e) = rest.strip_prefix(['e', 'E']) {
            let (is_negative, digits) = split_sign(after_e);
            let (digits, remainder) = split_digits(digits);
            if !digits.is_empty() {
                let magnitude = digits.parse().unwrap_or(i64::MAX);
                (exponent, rest) = (if is_negative { -magnitude } else { magnitude }, remainder);
            }
        }
        Some(Self { is_negative, integer_part, fraction, exponent, rest })
    }

    fn to_big_decimal(&self) -> BigDecimal {
        let integer_part = self.integer_part.trim_start_matches('0');
        let limit = i64::try_from(DIGITS_MAX).unwrap_or(i64::MAX);
        let digits: String = integer_part.chars().chain(self.fraction.chars()).collect();
        // The position of the decimal point in `digits`.
        let point = i64::try_from(integer_part.len()).unwrap_or(limit).saturating_add(self.exponent);
        let is_zero = digits.bytes().all(|digit| digit == b'0');
        let value = if is_zero || point < -limit {
            BigDecimal::from(0)
        } else if point > limit {
            BigDecimal::new(1.into(), -limit)
        } else {
            let digits: String = digits.chars().take(2 * DIGITS_MAX).collect();
            let scale = i64::try_from(digits.len()).unwrap_or(limit) - point;
            BigDecimal::new(digits.parse().unwrap_or_default(), scale)
        };
        if self.is_negative { -value } else { value }
    }

    fn to_card_number(&self) -> Option<String> {
        let all_digits = format!("{}{}", self.integer_part, self.fraction);
        let digits = all_digits.trim_start_matches('0');
        if digits.is_empty() {
            return Some("0".to_owned());
        }
        let leading_zeros = all_digits.len() - digits.len();
        // The position of the decimal point in `digits`.
        let point = i64::try_from(self.integer_part.len()).ok()? - i64::try_from(leading_zeros).ok()?;
        let point = usize::try_from(point.saturating_add(self.exponent)).ok()?;
        if self.is_negative || !(1..=CARD_NUMBER_DIGITS_MAX).contains(&point) {
            return None;
        }
        let (number, fraction) = digits.split_at(point.min(digits.len()));
        let has_fraction = fraction.bytes().any(|digit| digit != b'0');
        (!has_fraction).then(|| format!("{number:0<point$}"))
    }
}

const WHITESPACE: [char; 6] = [' ', '\t', '\n', '\u{b}', '\u{c}', '\r'];

/// Returns whether the text begins with a minus, and the text after the sign.
fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// Returns the leading digits, without a single `_` between two of them, and the text after them.
fn split_digits(text: &str) -> (Cow<'_, str>, &str) {
    let bytes = text.as_bytes();
    let is_digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    let mut end = 0;
    while is_digit(end) || end > 0 && bytes.get(end) == Some(&b'_') && is_digit(end + 1) {
        end += 1;
    }
    let (digits, rest) = text.split_at(end);
    (if digits.contains('_') { digits.replace('_', "").into() } else { digits.into() }, rest)
}
