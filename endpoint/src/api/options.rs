//! What an operator may switch on.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::Response;

use super::App;
use super::error::ApiError;
use super::rate_limit::RateLimits;
use crate::faults::Faults;
use crate::store::Policy;

/// Bytes of all header names and values of a request.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Everything beyond the plain protocol. By default: any endpoint id works, nothing is limited, nothing is faulty.
#[derive(Debug, Default)]
pub struct Options {
    /// The endpoints that are configured.
    pub catalog: Catalog,
    /// The platform's rate limits.
    pub rate_limits: Option<RateLimits>,
    /// Scripted faults.
    pub faults: Option<Arc<Faults>>,
}

/// Which endpoints exist and what applies to their jobs unless a job says otherwise.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The defaults of single endpoints, by id.
    pub policies: HashMap<String, Policy>,
    /// Only the endpoints in `policies` exist; otherwise others are created on first use.
    pub closed: bool,
}

impl Catalog {
    /// The limits of a job that sets none itself.
    #[must_use]
    pub fn policy(&self, endpoint: &str) -> Policy {
        self.policies.get(endpoint).copied().unwrap_or_default()
    }
}

/// The endpoint id and the operation in a path `/v2/<endpoint>/<operation>/…`.
pub(crate) fn route_of(uri: &Uri) -> Option<(&str, &str)> {
    let mut segments = uri.path().strip_prefix("/v2/")?.split('/');
    Some((segments.next()?, segments.next()?))
}

/// Refuses requests to endpoints that do not exist and requests with oversized headers.
pub(crate) async fn admit(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    if header_bytes(request.headers()) > MAX_HEADER_BYTES {
        return Err(ApiError::HeadersTooLarge { limit: MAX_HEADER_BYTES });
    }
    let catalog = &app.options.catalog;
    let unknown = |(endpoint, _): (&str, &str)| !catalog.policies.contains_key(endpoint);
    if catalog.closed && route_of(request.uri()).is_some_and(unknown) {
        return Err(ApiError::NoEndpoint);
    }
    Ok(next.run(request).await)
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}
