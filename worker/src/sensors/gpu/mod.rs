//! What the worker's GPUs are doing, as their driver sees it. All of it is optional: without a driver there are no figures,
//! and a figure that a card or a container does not give is absent, never zero. Nothing is matched on process ids, which
//! mean nothing inside a container. The driver's management library opens no CUDA context.

mod floor;
mod nvml;
mod sampler;
mod throttle;
mod visible;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use sampler::{GpuSampler, GpuSettings, spawn};
pub use visible::VisibleDevices;

use runpod_worker_core::SlowdownReason;

/// A sample older than so many intervals, and than [`FRESH`], is not shown: the driver does not answer any more.
const MISSED: u32 = 3;
const FRESH: Duration = Duration::from_secs(5);

/// What one GPU, or one slice of it, is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuFigures {
    /// Its UUID, such as `GPU-5d…` or `MIG-…`.
    pub uuid: Option<String>,
    /// Its product name.
    pub name: Option<String>,
    /// Share of the last moments in which it computed, from 0 to 1.
    pub utilization: Option<f64>,
    /// Bytes of its memory in use, by whomever.
    pub memory_used: Option<u64>,
    /// Bytes of its memory.
    pub memory_total: Option<u64>,
    /// Power that it draws.
    pub power_watts: Option<f64>,
    /// Its temperature.
    pub temperature_celsius: Option<f64>,
    /// What slows it down at this moment.
    pub throttled: Option<Vec<SlowdownReason>>,
    /// Memory errors since its driver was loaded that could not be corrected.
    pub ecc_errors: Option<u64>,
    /// Critical errors since the worker started, where they are told.
    pub xid_errors: Option<XidErrors>,
}

/// Errors that the driver calls Xid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XidErrors {
    /// How many.
    pub count: u64,
    /// NVIDIA's number of the last one.
    pub last: Option<u64>,
}

/// Looks at GPUs. A call may block for as long as the driver likes.
pub trait GpuReader {
    /// All GPUs that this worker sees, in the order in which CUDA numbers them.
    fn read(&mut self) -> Vec<GpuFigures>;
}

/// One GPU at the time of the last sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpu {
    /// What it was doing.
    pub figures: GpuFigures,
    /// The least memory in use between jobs, lately. It rises when something leaks.
    pub memory_floor: Option<u64>,
}

#[derive(Clone, Debug)]
struct Sample {
    gpus: Arc<[Gpu]>,
    taken: Instant,
}

/// A window on the last sample.
#[derive(Clone, Debug)]
pub struct Gpus {
    sample: watch::Receiver<Option<Sample>>,
    max_age: Duration,
}

impl Gpus {
    /// Nothing to see, ever.
    pub fn absent() -> Self {
        Self { sample: watch::channel(None).1, max_age: Duration::ZERO }
    }

    /// What this worker's GPUs are doing; `None` without a driver, and when it has stopped answering.
    pub fn latest(&self) -> Option<Arc<[Gpu]>> {
        let sample = self.sample.borrow();
        let fresh = sample.as_ref().filter(|sample| sample.taken.elapsed() <= self.max_age);
        fresh.map(|sample| Arc::clone(&sample.gpus))
    }

    fn channel(interval: Duration) -> (watch::Sender<Option<Sample>>, Self) {
        let (sender, sample) = watch::channel(None);
        (sender, Self { sample, max_age: (interval * MISSED).max(FRESH) })
    }

    /// One that shows these, for tests of those who show them on.
    #[cfg(test)]
    pub(crate) fn fixed(gpus: Vec<Gpu>) -> Self {
        let sample = Sample { gpus: gpus.into(), taken: Instant::now() };
        Self { sample: watch::channel(Some(sample)).1, max_age: Duration::MAX }
    }
}
