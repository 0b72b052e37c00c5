//! What every route shares.

use std::sync::Arc;
use std::time::Duration;

use runpod_http_server::Budget;
use tokio_util::sync::CancellationToken;

use super::options::Options;
use crate::store::Store;

/// What every route needs.
#[derive(Clone)]
pub struct App {
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
