//! Requests, replies, limits, the OpenAPI document and monitoring.

mod fuzz;
#[cfg(target_os = "linux")]
mod limits;
pub mod monitoring;
mod openapi;
#[cfg(target_os = "linux")]
mod overload;
mod published_examples;
mod replies;
mod request_collection;
mod requests;
#[cfg(target_os = "linux")]
mod shutdown;
#[cfg(target_os = "linux")]
pub mod sockets;
mod uploads;

use crate::harness::hash;

/// The parameters of a signed sale from group 11. If the server reads them all, it replies `Free cards was not found`.
fn signed_query() -> String {
    format!("u=admin&id=11&hash={}", hash("11", "secret"))
}
