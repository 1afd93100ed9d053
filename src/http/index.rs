//! The page `/`, for people who open the server's address in a browser.

use axum::body::Bytes;
use axum::response::Html;
use axum::routing::{MethodRouter, get};

use crate::http::openapi;

/// The route of the page. It has no external links: a browser may reach this server only.
pub fn route<S: Clone + Send + Sync + 'static>(prefix: &str) -> MethodRouter<S> {
    let text = format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"/><title>Mortise</title></head>
<body>
<h1>Mortise</h1>
<p>This server answers the calling-card API of MOR. The web page for operators, the
console, has a port of its own: <code>console_listen</code>.</p>
<ul>
<li>The API: <code>{prefix}/api/NAME</code> and <code>/api/NAME</code>. <a href="{openapi}">{openapi}</a> describes its
operations.</li>
<li>The health checks: <a href="/livez">/livez</a> (the server answers) and <a href="/readyz">/readyz</a> (the database
accepts writes).</li>
<li>The documents, as text files: <code>docs/</code> in the source, <code>/usr/share/doc/mortise/</code> in the
package.</li>
</ul>
</body>
</html>
"#,
        openapi = openapi::PATH
    );
    let page = Html(Bytes::from(text));
    get(async move || page)
}
