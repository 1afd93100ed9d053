//! Values that no report and no output shows: PINs, passwords, keys, numbers of vouchers. In their place stand digests,
//! which tell whether two values are equal.

use sha2::{Digest, Sha256};

/// The columns of a table that contain secrets.
pub fn columns(table: &str) -> &'static [&'static str] {
    match table {
        "cards" => &["pin"],
        "users" => &["password", "uniquehash"],
        // The secret keys are settings.
        "conflines" => &["value", "value2"],
        "vouchers" => &["number"],
        _ => &[],
    }
}

/// Whether a column of a table contains secrets.
pub fn is_secret(table: &str, column: &str) -> bool {
    columns(table).contains(&column)
}

/// Makes digests with a random salt: they cannot be compared with those of another run, or computed for a list of PINs.
#[derive(Debug)]
pub struct Digests {
    salt: [u8; 16],
}

impl Digests {
    /// Draws a salt.
    ///
    /// # Errors
    ///
    /// If the operating system has no random bytes.
    pub fn new() -> std::io::Result<Self> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(std::io::Error::other)?;
        Ok(Self { salt })
    }

    /// Returns the first 12 hexadecimal digits of the digest of a value.
    pub fn digest(&self, secret: &str) -> String {
        let digest = Sha256::new().chain_update(self.salt).chain_update(secret).finalize();
        hex::encode(&digest[..6])
    }
}
