//! Random numbers and PINs, from the operating system's source: the one door through which chance comes in.

use std::collections::HashSet;

use crate::error::ApiError;

/// As many random digits.
pub fn digits(length: i32) -> Result<String, ApiError> {
    let mut digits = String::new();
    while digits.len() < usize::try_from(length).unwrap_or(0) {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| ApiError::TransactionFailed)?;
        // 250 is the largest multiple of ten that a byte holds; the rest would favour some digits.
        let fair = bytes.iter().filter(|byte| **byte < 250).map(|byte| char::from(b'0' + byte % 10));
        digits.extend(fair);
    }
    digits.truncate(usize::try_from(length).unwrap_or(0));
    Ok(digits)
}

/// Up to so many different PINs of a length: fewer where they are so short that one comes twice.
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
