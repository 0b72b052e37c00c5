//! Who may send requests: whoever has a client key. The answers to others are RunPod's.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;

use crate::api::{KeySet, Keys, client_only};

/// Requires a client key. Without any keys, foreign pages are refused, as on the client API.
pub(super) fn guarded(router: Router, keys: &Keys) -> Router {
    if keys.client.is_empty() {
        client_only(router, keys)
    } else {
        router.layer(from_fn_with_state(keys.client.clone(), check))
    }
}

async fn check(State(keys): State<KeySet>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::trim);
    let key = given.map(|value| match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
        _ => value,
    });
    let detail = match key {
        Some(key) if keys.find(key).is_some() => return next.run(request).await,
        Some(key) if !key.is_empty() => "invalid api key",
        _ => "no token provided",
    };
    let body = Json(json!({ "detail": detail, "status": 401, "title": "Unauthorized" }));
    (StatusCode::UNAUTHORIZED, body).into_response()
}
