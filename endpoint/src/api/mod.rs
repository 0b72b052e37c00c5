//! The HTTP layer: thin routes over the [`Store`](crate::store::Store).

mod admission;
mod app;
mod auth;
mod batch;
mod body;
mod client;
mod delivery;
mod docs;
mod error;
mod extensions;
mod fault_injection;
pub(crate) mod graphql;
mod ids;
mod json;
mod keys;
mod large_result;
pub(crate) mod limits;
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
mod wire;
mod worker;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use utoipa_axum::router::OpenApiRouter;

pub use app::{App, AppState};
use auth::Gate;
pub use error::ApiError;
pub(crate) use ids::is_id;
pub use keys::{KeyFileError, KeySet, Keys};
pub use options::{Catalog, Options};
pub use rate_limit::RateLimits;
pub(crate) use report::Report;

pub use crate::secret::Secret;

/// Refuses requests with an invalid id in their path.
pub(crate) fn with_valid_ids<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.layer(from_fn(ids::check))
}

/// Requires the client key for these routes.
pub(crate) fn client_only<S: Clone + Send + Sync + 'static>(routes: Router<S>, keys: &Keys) -> Router<S> {
    let gate = Gate { keys: keys.client.clone(), local: keys.local };
    routes.layer(from_fn_with_state(gate, auth::check))
}

/// The routes of the client API that stand in the OpenAPI document.
fn documented_routes() -> OpenApiRouter<App> {
    client::routes().merge(operations::routes()).merge(batch::routes())
}

/// Both APIs as one router.
pub fn router(app: App, keys: Keys) -> Router {
    let admitted = |routes: Router<App>| {
        let admitted = routes.layer(from_fn_with_state(app.clone(), admission::admit));
        with_valid_ids(admitted)
    };
    // Layers run from the last to the first.
    let client = |routes: Router<App>| {
        let limited = routes.layer(from_fn_with_state(app.clone(), admission::limit_rate));
        client_only(admitted(limited), &keys)
    };
    let (documented, document) = documented_routes().split_for_parts();
    let plain = client(documented.merge(metrics::routes()));
    let openai = openai::as_openai_errors(client(openai::routes()));
    let worker_gate = Gate { keys: keys.worker, local: keys.local };
    let worker = admitted(worker::routes(&app).layer(from_fn_with_state(app.clone(), fault_injection::inject)))
        .layer(from_fn_with_state(worker_gate, auth::check))
        .layer(map_response(extensions::announce));
    plain
        .merge(openai)
        .merge(worker)
        .merge(docs::routes(document))
        .fallback(|| async { ApiError::NoRoute })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}
