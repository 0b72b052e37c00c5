//! Requests whose body nobody can read.

use axum::http::Extensions;

use super::error::ApiError;

/// Marks such a request. It is refused where its route is known: only there it is known who may read the refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnknownEncoding;

/// Refuses a marked request.
pub(crate) fn check(request: &Extensions) -> Result<(), ApiError> {
    request.get::<UnknownEncoding>().map_or(Ok(()), |UnknownEncoding| Err(ApiError::UnknownEncoding))
}
