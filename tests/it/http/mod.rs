//! Requests, replies, limits, the OpenAPI document and monitoring.

mod fuzz;
pub mod monitoring;
mod openapi;
#[cfg(target_os = "linux")]
mod overload;
mod request_collection;
mod requests;
