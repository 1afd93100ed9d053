//! Admission, secret keys, the limit on failed attempts, the log of refusals, and secrets in output.

mod admission;
mod attempt_limit;
mod floods;
mod key_rotation;
mod refusal_log;
mod secrets;
