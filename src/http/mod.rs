//! HTTP: router, requests, parameters, replies, monitoring endpoints and the OpenAPI document.

pub mod authorized;
pub mod client_addr;
pub mod context;
pub mod document;
pub mod index;
pub mod monitoring;
pub mod openapi;
pub mod params;
pub mod path;
pub mod reply;
pub mod request;
pub mod router;
mod upload;
pub mod zip;
