//! What every handler shares.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::options::Options;
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
