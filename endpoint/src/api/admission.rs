//! Refuses requests before a route sees them.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;

use super::app::App;
use super::auth::CallerKey;
use super::error::ApiError;
use super::limits;
use super::rate_limit::Caller;
use super::route::route_of;

/// Refuses requests to endpoints that do not exist and requests with oversized headers.
pub(crate) async fn admit(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    if header_bytes(request.headers()) > limits::HEADERS {
        return Err(ApiError::HeadersTooLarge { limit: limits::HEADERS });
    }
    let catalog = &app.options.catalog;
    if let Some((id, _)) = route_of(request.uri()).filter(|(id, _)| !catalog.has(id)) {
        return Err(ApiError::NoEndpoint { id: id.to_owned(), advice: catalog.advice() });
    }
    Ok(next.run(request).await)
}

/// Refuses a request that exceeds its caller's rate limit.
pub(crate) async fn limit_rate(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    let Some(rates) = &app.options.rate_limits else { return Ok(next.run(request).await) };
    let Some((endpoint, operation)) = route_of(request.uri()) else { return Ok(next.run(request).await) };
    let key = CallerKey::of(request.extensions()).number();
    let caller = Caller { key, endpoint: endpoint.to_owned(), operation: operation.to_owned() };
    let _open = rates.enter(caller).map_err(|after| ApiError::RateLimited { after })?;
    Ok(next.run(request).await)
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}
