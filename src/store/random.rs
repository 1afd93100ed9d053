//! Random card numbers and PINs, from the operating system's random source.

use std::collections::HashSet;

use crate::error::ApiError;

/// Returns a string of `length` random digits.
pub fn digits(length: i32) -> Result<String, ApiError> {
    let mut digits = String::new();
    while digits.len() < usize::try_from(length).unwrap_or(0) {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| ApiError::TransactionFailed)?;
        // Bytes from 250 on are dropped: 250 is the largest multiple of ten in a byte, and the rest would favour some
        // digits.
        let unbiased = bytes.iter().filter(|byte| **byte < 250).map(|byte| char::from(b'0' + byte % 10));
        digits.extend(unbiased);
    }
    digits.truncate(usize::try_from(length).unwrap_or(0));
    Ok(digits)
}

/// Returns up to `count` different PINs of a length; fewer if a PIN was drawn more than once.
pub fn distinct_pins(count: u32, length: i32) -> Result<Vec<String>, ApiError> {
    let mut seen = HashSet::new();
    let mut pins = Vec::new();
    for _ in 0..count {
        let pin = digits(length)?;
        if seen.insert(pin.clone()) {
            pins.push(pin);
        }
    }
    Ok(pins)
}
