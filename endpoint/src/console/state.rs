//! What the console's routes share.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::samples::Samples;
use crate::local::{Local, WorkerFigures};
use crate::store::Store;

/// Event streams that may be open at once; each open page holds one.
pub(crate) const MAX_EVENT_STREAMS: usize = 64;

/// What the console reads.
#[derive(Clone)]
pub struct Console {
    /// Jobs and workers.
    pub store: Arc<dyn Store>,
    /// The counters of the last five minutes.
    pub samples: Samples,
    /// The handler and the workers that this program starts.
    pub local: Local,
    /// The GPUs and batches of those workers.
    pub figures: WorkerFigures,
    /// The load-balancing endpoints of this program.
    pub balanced: Arc<BTreeSet<String>>,
    /// Once cancelled, all event streams end.
    pub shutdown: CancellationToken,
    /// One permit for each open event stream.
    pub(super) viewers: Arc<Semaphore>,
}

impl Console {
    /// A console that reads this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, local: Local, shutdown: CancellationToken) -> Self {
        let viewers = Arc::new(Semaphore::new(MAX_EVENT_STREAMS));
        let figures = WorkerFigures::new(local.clone());
        Self { store, samples: Samples::default(), local, figures, balanced: Arc::default(), shutdown, viewers }
    }

    /// Sets the load-balancing endpoints.
    #[must_use]
    pub fn with_balanced(self, balanced: BTreeSet<String>) -> Self {
        Self { balanced: Arc::new(balanced), ..self }
    }
}
