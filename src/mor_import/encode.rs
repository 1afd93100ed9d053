//! Rows in PostgreSQL's binary format of `copy`, made from MySQL's texts.

use crate::mor_import::error::ImportError;
use crate::mor_import::target::Kind;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const NUMERIC_NEGATIVE: u16 = 0x4000;
/// Decimal digits in one digit of PostgreSQL's `numeric`.
const DIGIT_LEN: usize = 4;

/// Starts the data of a `copy`.
pub fn start(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(SIGNATURE);
}

/// Ends the data of a `copy`.
pub fn end(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&(-1_i16).to_be_bytes());
}

/// Starts a row with this number of values.
pub fn start_row(buffer: &mut Vec<u8>, len: usize) {
    buffer.extend_from_slice(&i16::try_from(len).unwrap_or(i16::MAX).to_be_bytes());
}

/// Appends a value. Returns whether it had bytes 0x00, which PostgreSQL cannot store: they become U+FFFD.
pub fn value(buffer: &mut Vec<u8>, kind: Kind, text: Option<&[u8]>) -> Result<bool, ImportError> {
    let Some(text) = text else {
        buffer.extend_from_slice(&(-1_i32).to_be_bytes());
        return Ok(false);
    };
    match kind {
        Kind::Integer => {
            buffer.extend_from_slice(&8_i32.to_be_bytes());
            buffer.extend_from_slice(&parse_integer(text)?.to_be_bytes());
            Ok(false)
        }
        Kind::Numeric => numeric(buffer, text).map(|()| false),
        Kind::Text | Kind::Timestamp | Kind::Time => {
            let has_nul = text.contains(&0);
            with_length(buffer, |buffer| {
                let mut parts = text.split(|byte| *byte == 0);
                buffer.extend_from_slice(parts.next().unwrap_or_default());
                for part in parts {
                    buffer.extend_from_slice("\u{fffd}".as_bytes());
                    buffer.extend_from_slice(part);
                }
            });
            Ok(has_nul)
        }
    }
}

/// Appends what `write` writes, and its length before it.
fn with_length(buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    write(buffer);
    let len = i32::try_from(buffer.len() - start - 4).unwrap_or(i32::MAX);
    buffer[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Parses an integer.
pub fn parse_integer(text: &[u8]) -> Result<i64, ImportError> {
    let number = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| ImportError::refused(format!("{:?} is not an integer", String::from_utf8_lossy(text))))
}

/// Appends a decimal number, such as `-12.340`.
fn numeric(buffer: &mut Vec<u8>, text: &[u8]) -> Result<(), ImportError> {
    let invalid = || ImportError::refused(format!("{:?} is not a decimal number", String::from_utf8_lossy(text)));
    let (is_negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let (integer, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    if integer.is_empty() || !integer.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(invalid());
    }
    let integer = &integer[integer.iter().take_while(|digit| **digit == b'0').count()..];
    // PostgreSQL's digits have base 10,000, and the decimal point is between two of them.
    let integer_len = integer.len().div_ceil(DIGIT_LEN);
    let padding = integer_len * DIGIT_LEN - integer.len();
    let padded = std::iter::repeat_n(&b'0', padding).chain(integer).chain(fraction);
    let mut base_digits: Vec<u16> = Vec::with_capacity((digits.len() + padding).div_ceil(DIGIT_LEN));
    for (index, digit) in padded.enumerate() {
        if index % DIGIT_LEN == 0 {
            base_digits.push(0);
        }
        let weight = [1000, 100, 10, 1][index % DIGIT_LEN];
        if let Some(last) = base_digits.last_mut() {
            *last += u16::from(digit - b'0') * weight;
        }
    }
    let leading = base_digits.iter().take_while(|digit| **digit == 0).count();
    let is_zero = leading == base_digits.len();
    let kept: &[u16] = if is_zero { &[] } else { &base_digits[leading..] };
    let kept = &kept[..kept.len() - kept.iter().rev().take_while(|digit| **digit == 0).count()];
    let to_i16 = |number: usize| i16::try_from(number).map_err(|_| invalid());
    let weight = if is_zero { 0 } else { to_i16(integer_len)? - 1 - to_i16(leading)? };
    let (count, scale) = (to_i16(kept.len())?, to_i16(fraction.len())?);
    with_length(buffer, |buffer| {
        buffer.extend_from_slice(&count.to_be_bytes());
        buffer.extend_from_slice(&weight.to_be_bytes());
        buffer.extend_from_slice(&(if is_negative && !is_zero { NUMERIC_NEGATIVE } else { 0 }).to_be_bytes());
        buffer.extend_from_slice(&scale.to_be_bytes());
        for digit in kept {
            buffer.extend_from_slice(&digit.to_be_bytes());
        }
    });
    Ok(())
}
