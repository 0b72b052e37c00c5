//! The HTTP layer: thin routes over the [`Store`](crate::store::Store).

mod admission;
mod app;
mod auth;
mod batch;
mod body;
mod client;
mod cors;
mod delivery;
mod docs;
mod encoding;
mod error;
mod extensions;
mod fair_by;
mod fault_injection;
pub(crate) mod graphql;
mod idempotency;
mod ids;
mod json;
mod keys;
mod large_result;
pub(crate) mod limits;
mod methods;
mod metrics;
mod openai;
mod operations;
mod options;
mod query;
mod rate_limit;
mod report;
mod route;
mod shared_json;
mod submission;
mod time;
mod trace;
mod unreadable;
mod wire;
mod worker;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;

pub use app::{App, AppState};
use auth::Gate;
pub use cors::{Origin, Origins};
pub use error::ApiError;
pub use fair_by::FairBy;
pub(crate) use idempotency::HEADER as IDEMPOTENCY_KEY;
pub(crate) use ids::{is_id, is_reserved_id};
pub use keys::{KeyFileError, KeySet, Keys};
use methods::Methods;
pub use options::{Catalog, Options};
pub(crate) use query::ReadQuery;
pub use rate_limit::RateLimits;
pub(crate) use report::Report;
pub(crate) use wire::check_field;

pub use crate::secret::Secret;

/// Refuses requests with an invalid id in their path.
pub(crate) fn with_valid_ids<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.layer(from_fn(ids::check))
}

/// Requires the client key for these routes.
pub(crate) fn client_only<S: Clone + Send + Sync + 'static>(routes: Router<S>, keys: &Keys) -> Router<S> {
    let gate = Gate { keys: keys.client.clone(), local: keys.local, origins: Origins::default() };
    routes.layer(from_fn_with_state(Arc::new(gate), auth::check))
}

/// The routes of the client API that stand in the OpenAPI document.
fn documented_routes() -> OpenApiRouter<App> {
    client::routes().merge(operations::routes()).merge(batch::routes()).merge(openai::routes())
}

/// Adds what all routes of a server have in common: compressed bodies, and errors in the form that the callers of a route expect,
/// whichever layer they come from.
pub fn with_common_layer<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.layer(from_fn(common))
}

async fn common(request: Request, next: Next) -> Response {
    let is_openai = openai::is_asked_by(&request);
    let response = error::with_reason(encoding::translate(request, next).await);
    if is_openai { openai::in_its_form(response) } else { response }
}

/// Both APIs as one router.
pub fn router(app: App, keys: Keys) -> Router {
    // Layers run from the last to the first.
    let origins = &app.options.origins;
    let (documented, document) = documented_routes().split_for_parts();
    let gate = Gate { keys: keys.client, local: keys.local, origins: origins.clone() };
    let methods = Arc::new(Methods::documented(&document));
    let clients = admission::for_clients(documented.merge(metrics::routes()), &app, gate, Arc::clone(&methods));
    // A browser asks for permission without a key, with a method that no route has, and for paths that do not exist.
    let clients = refusing_others(clients, methods).fallback(|| async { ApiError::NoRoute });
    let clients = match origins.layer() {
        Some(cors) => clients.layer(cors),
        None => clients,
    };
    let worker_gate = Gate { keys: keys.worker, local: keys.local, origins: Origins::default() };
    let mut worker = worker::routes();
    if app.options.faults.is_some() {
        worker = worker.layer(from_fn_with_state(app.clone(), fault_injection::inject));
    }
    let methods = Arc::new(Methods::of_workers());
    let worker = admission::for_workers(worker, &app, worker_gate, Arc::clone(&methods));
    let worker = refusing_others(worker, methods);
    let documents = docs::routes(document).method_not_allowed_fallback(|| async { ApiError::WrongMethod });
    clients.merge(worker).merge(documents).with_state(app)
}

/// Refuses methods that a route does not have.
fn refusing_others(routes: Router<App>, methods: Arc<Methods>) -> Router<App> {
    let refuse = move |route: Option<MatchedPath>| async move { methods.refuse(route.as_ref()) };
    routes.method_not_allowed_fallback(refuse)
}
