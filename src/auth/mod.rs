//! Authentication and authorization: users, rights, request hashes, passwords, and the limit on failed attempts.

pub mod admission;
pub mod attempt_limiter;
pub mod caller;
pub mod passwords;
pub mod signature;
pub mod user_lookup;
