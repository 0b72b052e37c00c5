//! What every route shares.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use runpod_http_server::Budget;
use tokio_util::sync::CancellationToken;

use super::options::Options;
use crate::store::Store;

/// What every route needs. Every layer of the router copies it for each request, so a copy is one pointer.
#[derive(Clone)]
pub struct App(Arc<AppState>);

impl Deref for App {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.0
    }
}

impl From<AppState> for App {
    fn from(state: AppState) -> Self {
        Self(Arc::new(state))
    }
}

/// What [`App`] points to.
pub struct AppState {
    /// Jobs and workers.
    pub store: Arc<dyn Store>,
    /// How long job-take and job-stop requests are held open when there is no job and no stop signal.
    pub hold: Duration,
    /// Largest result or stream item, in bytes.
    pub max_result_bytes: usize,
    /// The memory of the request bodies that are being read.
    pub request_memory: Budget,
    /// Once cancelled, workers get no more jobs, so that they can stop.
    pub drain: CancellationToken,
    /// Once cancelled, all held requests end.
    pub shutdown: CancellationToken,
    /// What the operator has switched on.
    pub options: Arc<Options>,
}
