//! The HTTP layer: thin handlers over the [`Store`].

mod auth;
mod body;
mod client;
mod delivery;
mod docs;
mod error;
pub(crate) mod graphql;
mod json;
mod query;
mod wire;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use tokio_util::sync::CancellationToken;

pub use auth::Secret;
pub use error::ApiError;

use crate::store::Store;

/// What every handler needs.
#[derive(Clone)]
pub struct App {
    /// Jobs and workers.
    pub store: Arc<dyn Store>,
    /// How long job-take and job-stop are held open when there is nothing to say.
    pub hold: Duration,
    /// Largest result or stream item, in bytes.
    pub max_result_bytes: usize,
    /// From here on workers get no more jobs, so that they can leave.
    pub drain: CancellationToken,
    /// Ends all held requests.
    pub shutdown: CancellationToken,
}

/// Keys to enforce; `None` lets everyone in.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// For the client API.
    pub client: Option<Secret>,
    /// For the worker API.
    pub worker: Option<Secret>,
}

/// Lets only callers with the client key through.
pub(crate) fn client_only<S: Clone + Send + Sync + 'static>(routes: Router<S>, keys: &Keys) -> Router<S> {
    routes.layer(from_fn_with_state(keys.client.clone(), auth::check))
}

/// Both APIs as one router.
pub fn router(app: App, keys: Keys) -> Router {
    let (client, document) = client::routes().split_for_parts();
    let client = client.layer(from_fn_with_state(keys.client, auth::check));
    let worker = worker::routes().layer(from_fn_with_state(keys.worker, auth::check));
    client
        .merge(worker)
        .merge(docs::routes(document))
        .fallback(|| async { ApiError::NoRoute })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}
