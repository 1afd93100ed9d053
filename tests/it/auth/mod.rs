//! Admission, request hashes, limits on failed attempts, and secrets.

mod admission;
mod attempt_limit;
mod key_rotation;
mod secrets;
