//! The second factor: codes that depend on the time (RFC 6238), of six digits, for 30 seconds, with SHA-1, which all
//! programs for phones understand.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// Length of a secret in bytes, as RFC 4226 recommends.
pub const SECRET_BYTES: usize = 20;
/// How long a code is valid, in seconds.
const STEP_S: u64 = 30;
/// A code of one step earlier or later is accepted: clocks differ, and typing takes time.
const STEPS_AROUND: u64 = 1;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Returns a new secret.
///
/// # Errors
///
/// If the operating system has no random bytes.
pub fn new_secret() -> Result<[u8; SECRET_BYTES], getrandom::Error> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret)?;
    Ok(secret)
}

/// Returns the step of a time, in seconds since 1970.
pub fn step_at(unix_time: u64) -> u64 {
    unix_time / STEP_S
}

/// Returns the code of a step: six digits. `None`: HMAC does not take the secret, which does not happen with
/// [`SECRET_BYTES`] bytes.
pub fn code_at(secret: &[u8], step: u64) -> Option<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).ok()?;
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = usize::from(digest.last()? & 0x0f);
    let bytes: [u8; 4] = digest.get(offset..offset + 4)?.try_into().ok()?;
    Some(format!("{:06}", (u32::from_be_bytes(bytes) & 0x7fff_ffff) % 1_000_000))
}

/// Returns the step whose code this is, at most one step from `now_step`. `None`: the code is wrong.
/// Spaces in the code are ignored.
pub fn matching_step(secret: &[u8], code: &str, now_step: u64) -> Option<u64> {
    let code: String = code.chars().filter(|char| !char.is_whitespace()).collect();
    let steps = now_step.saturating_sub(STEPS_AROUND)..=now_step + STEPS_AROUND;
    steps.into_iter().find(|step| {
        let expected = code_at(secret, *step).unwrap_or_default();
        !expected.is_empty() && bool::from(subtle::ConstantTimeEq::ct_eq(expected.as_bytes(), code.as_bytes()))
    })
}

/// Returns the text that programs for phones read: a key URI, as a QR code shows it.
pub fn key_uri(account: &str, secret: &[u8]) -> String {
    let account = percent_encoding::utf8_percent_encode(account, percent_encoding::NON_ALPHANUMERIC);
    format!("otpauth://totp/Mortise:{account}?secret={}&issuer=Mortise", base32(secret))
}

/// Returns the bytes in base 32 without padding, to type in.
pub fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(5) {
        let mut padded = [0; 8];
        padded[3..3 + group.len()].copy_from_slice(group);
        let bits = u64::from_be_bytes(padded);
        for digit in 0..(group.len() * 8).div_ceil(5) {
            let index = usize::try_from((bits >> (35 - 5 * digit)) & 31).unwrap_or(0);
            text.push(char::from(BASE32[index]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, the last six of the eight digits.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = b"12345678901234567890";
        for (time, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code_at(secret, step_at(time)).as_deref(), Some(code), "{time}");
        }
    }

    #[test]
    fn a_code_is_valid_for_one_step_around() {
        let secret = b"12345678901234567890";
        let code = code_at(secret, 100).unwrap_or_default();
        for (now, step) in [(98, None), (99, Some(100)), (100, Some(100)), (101, Some(100)), (102, None)] {
            assert_eq!(matching_step(secret, &code, now), step, "{now}");
        }
        assert_eq!(matching_step(secret, &format!("{} {}", &code[..3], &code[3..]), 100), Some(100));
        assert_eq!(matching_step(secret, "", 100), None);
    }

    /// RFC 4648, section 10, without padding.
    #[test]
    fn base32_is_that_of_the_rfc() {
        for (text, encoded) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(text.as_bytes()), encoded);
        }
    }
}
