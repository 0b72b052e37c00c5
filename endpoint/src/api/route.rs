//! The parts of a request's path.

use axum::http::Uri;

/// The endpoint id and the operation in a path `/v2/<endpoint>/<operation>/…`.
pub(crate) fn route_of(uri: &Uri) -> Option<(&str, &str)> {
    let mut segments = uri.path().strip_prefix("/v2/")?.split('/');
    Some((segments.next()?, segments.next()?))
}
