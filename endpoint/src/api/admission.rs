//! What every request to the two APIs must pass before a route sees it.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

use super::app::App;
use super::auth::{CallerKey, Gate};
use super::error::ApiError;
use super::extensions;
use super::ids;
use super::limits;
use super::methods::Methods;
use super::rate_limit::{Caller, Open};
use super::route::route_of;
use super::unreadable;

/// The checks of one API.
///
/// They are one layer instead of one each: a layer copies all layers below it for each request.
struct Admission {
    app: App,
    gate: Gate,
    methods: Arc<Methods>,
}

/// Checks requests to the client API: key, ids, headers, endpoint and rate limit.
pub(crate) fn for_clients(routes: Router<App>, app: &App, gate: Gate, methods: Arc<Methods>) -> Router<App> {
    routes.layer(from_fn_with_state(Admission::new(app, gate, methods), admit_client))
}

/// Checks requests to the worker API, which has no rate limits, and announces its extensions.
pub(crate) fn for_workers(routes: Router<App>, app: &App, gate: Gate, methods: Arc<Methods>) -> Router<App> {
    routes.layer(from_fn_with_state(Admission::new(app, gate, methods), admit_worker))
}

async fn admit_client(
    State(admission): State<Arc<Admission>>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    admission.check(&mut parts, path)?;
    let _open = admission.limit_rate(&parts)?;
    if let Some(refusal) = admission.methods.refusal(&parts) {
        return Ok(refusal);
    }
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn admit_worker(
    State(admission): State<Arc<Admission>>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let response = match admission.check(&mut parts, path) {
        Ok(()) => match admission.methods.refusal(&parts) {
            Some(refusal) => refusal,
            None => next.run(Request::from_parts(parts, body)).await,
        },
        Err(error) => error.into_response(),
    };
    extensions::announce(response)
}

impl Admission {
    fn new(app: &App, gate: Gate, methods: Arc<Methods>) -> Arc<Self> {
        Arc::new(Self { app: app.clone(), gate, methods })
    }

    /// The checks that both APIs have in common. Who has no key learns nothing else.
    fn check(&self, request: &mut Parts, path: Result<RawPathParams, RawPathParamsRejection>) -> Result<(), ApiError> {
        self.gate.admit(request)?;
        unreadable::check(&request.extensions)?;
        ids::check_path(path)?;
        if header_bytes(&request.headers) > limits::HEADERS {
            return Err(ApiError::HeadersTooLarge { limit: limits::HEADERS });
        }
        let catalog = &self.app.options.catalog;
        match route_of(&request.uri) {
            Some((id, _)) if !catalog.has(id) => {
                Err(ApiError::NoEndpoint { id: id.to_owned(), advice: catalog.advice() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a request that exceeds its caller's rate limit. An admitted one counts as open until the value is dropped.
    fn limit_rate(&self, request: &Parts) -> Result<Option<Open<'_>>, ApiError> {
        let Some(rates) = &self.app.options.rate_limits else { return Ok(None) };
        let Some((endpoint, operation)) = route_of(&request.uri) else { return Ok(None) };
        let key = CallerKey::of(&request.extensions).number();
        let caller = Caller { key, endpoint: endpoint.to_owned(), operation: operation.to_owned() };
        rates.enter(caller).map_err(|after| ApiError::RateLimited { after })
    }
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}
