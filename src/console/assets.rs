//! The style sheet, the script and the icon. Their paths have a hash of the content, so that browsers keep them.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// Files with their types.
const FILES: [(&str, &str, &str); 3] = [
    ("style.css", "text/css; charset=utf-8", include_str!("../../assets/console/style.css")),
    ("script.js", "text/javascript; charset=utf-8", include_str!("../../assets/console/script.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../assets/console/icon.svg")),
];

/// A file, ready to be sent.
struct Asset {
    path: String,
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let build = |(name, content_type, content): (&'static str, _, &'static str)| {
        let hash = hex::encode(Sha256::digest(content));
        Asset { path: format!("{}-{name}", hash.get(..16).unwrap_or_default()), name, content_type, content }
    };
    FILES.into_iter().map(build).collect()
});

/// Returns the path of a file, for the templates.
pub fn asset_path(name: &str) -> String {
    let asset = ASSETS.iter().find(|asset| asset.name == name);
    asset.map(|asset| format!("/assets/{}", asset.path)).unwrap_or_default()
}

/// `GET /assets/FILE`.
pub async fn get_asset(Path(path): Path<String>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    ([(CONTENT_TYPE, HeaderValue::from_static(asset.content_type)), (CACHE_CONTROL, forever)], asset.content)
        .into_response()
}
