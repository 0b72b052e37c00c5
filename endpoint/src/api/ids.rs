//! Checks the ids in a request's path, before anything else sees them.

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::middleware::Next;
use axum::response::Response;

use super::error::ApiError;
use super::limits;

/// The path parameters that are ids.
const IDS: [&str; 5] = ["endpoint", "id", "job", "request", "worker"];

/// Paths below `/v2/` that RunPod's management API has, and the one by which its apps are called. An endpoint of that name could not be
/// told apart from them.
const RESERVED_IDS: [&str; 12] = [
    "serverless",
    "pods",
    "clusters",
    "catalog",
    "templates",
    "network-volumes",
    "global-volumes",
    "registries",
    "billing",
    "account",
    "openapi.json",
    "flash",
];

/// Whether an endpoint of that name cannot exist.
pub(crate) fn is_reserved_id(text: &str) -> bool {
    RESERVED_IDS.contains(&text)
}

/// Refuses a request with an id in its path that no client, worker or operator can have chosen in good faith: ids are logged, shown in
/// terminals and used as parts of URLs.
pub(crate) async fn check(
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check_path(params)?;
    Ok(next.run(request).await)
}

/// The same for the parameters of a path.
pub(crate) fn check_path(params: Result<RawPathParams, RawPathParamsRejection>) -> Result<(), ApiError> {
    // What is no UTF-8 is no id either, and the rest of a path needs it too.
    let params = params.map_err(|_| ApiError::InvalidId)?;
    for (name, value) in &params {
        // The official worker appends parameters with `&` to the last segment.
        let value = value.split('&').next().unwrap_or_default();
        if IDS.contains(&name) && !is_id(value) {
            return Err(ApiError::InvalidId);
        }
        if name == "endpoint" && is_reserved_id(value) {
            return Err(ApiError::ReservedId(value.to_owned()));
        }
    }
    Ok(())
}

/// Whether the text can be an id. `$` is part of the placeholders that the official worker leaves in its first requests.
pub(crate) fn is_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:$".contains(&byte);
    (1..=limits::ID).contains(&text.len()) && text.bytes().all(fits) && !matches!(text, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_a_length_and_an_alphabet() {
        for good in
            ["a", "ep-0", "sync-0b0c8f5e-2d0e-4f0e-9a54-0a4f3f1d7a11-u1", "gpu-box.lan:1", "$RUNPOD_POD_ID", "..."]
        {
            assert!(is_id(good), "{good}");
        }
        let long = "x".repeat(limits::ID + 1);
        for bad in ["", ".", "..", "a/b", "a\\b", "a b", "a\nb", "\u{1b}[2J", "ä", "a\u{202e}", "a%2fb", &long] {
            assert!(!is_id(bad), "{bad:?}");
        }
        assert!(is_id(&long[1..]));
    }
}
