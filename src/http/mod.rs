//! HTTP: the router, requests and their parameters, replies, health and metrics, the OpenAPI document.

pub mod client_addr;
pub mod context;
pub mod monitoring;
pub mod openapi;
pub mod params;
pub mod reply;
pub mod request;
pub mod router;
