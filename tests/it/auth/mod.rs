//! Admission, secret keys, the limit on failed attempts, and secrets in output.

mod admission;
mod attempt_limit;
mod key_rotation;
mod secrets;
