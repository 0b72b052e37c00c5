//! The newest sample of all GPUs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::figures::Gpu;
use crate::sensors::limits::{GPU_FRESH_AT_LEAST, GPU_FRESH_INTERVALS};

/// The figures of all GPUs at one time.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) gpus: Arc<[Gpu]>,
    pub(super) taken: Instant,
}

/// Shows the newest sample. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gpus {
    sample: watch::Receiver<Option<Sample>>,
    pub(super) max_age: Duration,
}

impl Gpus {
    /// Never shows anything.
    pub fn absent() -> Self {
        Self { sample: watch::channel(None).1, max_age: Duration::ZERO }
    }

    /// The GPUs of this worker; `None` without a driver, and when it has stopped answering.
    pub fn latest(&self) -> Option<Arc<[Gpu]>> {
        let sample = self.sample.borrow();
        let fresh = sample.as_ref().filter(|sample| sample.taken.elapsed() <= self.max_age);
        fresh.map(|sample| Arc::clone(&sample.gpus))
    }

    pub(super) fn channel(interval: Duration) -> (watch::Sender<Option<Sample>>, Self) {
        let (sender, sample) = watch::channel(None);
        (sender, Self { sample, max_age: (interval * GPU_FRESH_INTERVALS).max(GPU_FRESH_AT_LEAST) })
    }

    /// Always shows these.
    #[cfg(test)]
    pub(crate) fn fixed(gpus: Vec<Gpu>) -> Self {
        let sample = Sample { gpus: gpus.into(), taken: Instant::now() };
        Self { sample: watch::channel(Some(sample)).1, max_age: Duration::MAX }
    }
}
