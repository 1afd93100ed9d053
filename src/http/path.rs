//! Paths of the API.

use crate::dialect::Dialect;

/// The path of the OpenAPI document, below the prefix or not.
pub const OPENAPI: &str = "/api/openapi.json";

/// Returns the path for the router, without repeated slashes, the slash at the end and a suffix of the dialect, and the
/// suffix.
pub fn routed_path(sent: &str, dialect: Dialect) -> (String, Option<&str>) {
    let segments: Vec<&str> = sent.split('/').filter(|segment| !segment.is_empty()).collect();
    let path = format!("/{}", segments.join("/"));
    let name_and_suffix = path.rsplit_once('.').zip(sent.trim_end_matches('/').rsplit_once('.'));
    match name_and_suffix {
        Some(((name, _), (_, suffix))) if dialect.path_suffixes().contains(&suffix) && !path.ends_with(OPENAPI) => {
            (name.trim_end_matches('/').to_owned(), Some(suffix))
        }
        _ => (path, None),
    }
}
