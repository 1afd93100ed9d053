//! A route of the console: a method of a path, with its rule.

use std::sync::Arc;

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodRouter, get, post};

use super::Console;
use super::access::Access;

/// A method of a path, with its rule.
pub struct Route {
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// GET (which includes HEAD) or POST.
    pub method: Method,
    /// Who may request it.
    pub access: Access,
    /// Whether the handler receives the body itself, as [`Upload`](super::upload::Upload).
    pub is_upload: bool,
    /// The handler.
    pub handler: MethodRouter<Arc<Console>>,
}

impl Route {
    /// A page.
    pub fn get<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Arc<Console>>,
        T: 'static,
    {
        Self { path, method: Method::GET, access, is_upload: false, handler: get(handler) }
    }

    /// A form.
    pub fn post<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Arc<Console>>,
        T: 'static,
    {
        Self { path, method: Method::POST, access, is_upload: false, handler: post(handler) }
    }

    /// A form with a file, which the handler takes as [`Upload`](super::upload::Upload): with a limit of its own, not
    /// that of other forms.
    pub fn upload<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Arc<Console>>,
        T: 'static,
    {
        Self { is_upload: true, ..Self::post(path, access, handler) }
    }
}
