//! Who a client is and what it may do: admission, request hashes, passwords, and limits on failed attempts.

pub mod admission;
pub mod attempt_limiter;
pub mod passwords;
pub mod signature;
