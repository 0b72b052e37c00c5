//! The HTTP layer: thin handlers over the [`Store`].

mod auth;
pub(crate) mod body;
mod client;
mod delivery;
mod docs;
mod error;
pub(crate) mod graphql;
mod json;
mod keys;
mod metrics;
mod openai;
mod options;
mod query;
mod rate_limit;
mod report;
mod trace;
mod wire;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use tokio_util::sync::CancellationToken;

use auth::Gate;
pub use auth::Secret;
pub(crate) use delivery::HandedOut;
pub use error::ApiError;
pub use keys::{KeyFileError, KeySet};
pub use options::{Catalog, Options};
pub(crate) use query::Params;
pub use rate_limit::RateLimits;

use crate::faults;
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
    /// What the operator switched on.
    pub options: Arc<Options>,
}

/// Keys to enforce; an empty set lets everyone in.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// For the client API.
    pub client: KeySet,
    /// For the worker API.
    pub worker: KeySet,
    /// An API without keys answers to local names only, as befits a server on a loopback address.
    pub local: bool,
}

/// Lets only callers with the client key through.
pub(crate) fn client_only<S: Clone + Send + Sync + 'static>(routes: Router<S>, keys: &Keys) -> Router<S> {
    let gate = Gate { keys: keys.client.clone(), local: keys.local };
    routes.layer(from_fn_with_state(gate, auth::check))
}

/// Both APIs as one router.
pub fn router(app: App, keys: Keys) -> Router {
    let admitted = |routes: Router<App>| routes.layer(from_fn_with_state(app.clone(), options::admit));
    // Layers run from the last to the first.
    let client = |routes: Router<App>| {
        let limited = routes.layer(from_fn_with_state(app.clone(), rate_limit::limit));
        client_only(admitted(limited), &keys)
    };
    let (documented, document) = client::routes().split_for_parts();
    let plain = client(documented.merge(metrics::routes()));
    let openai = openai::as_openai_errors(client(openai::routes()));
    let worker_gate = Gate { keys: keys.worker, local: keys.local };
    let worker = admitted(worker::routes().layer(from_fn_with_state(app.clone(), faults::inject)))
        .layer(from_fn_with_state(worker_gate, auth::check));
    plain
        .merge(openai)
        .merge(worker)
        .merge(docs::routes(document))
        .fallback(|| async { ApiError::NoRoute })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}
