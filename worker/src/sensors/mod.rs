//! What is measured of the worker: its GPUs, its container, and the memory that its handler processes report.

pub mod gpu;
mod handler_memory;
pub mod host;
pub(crate) mod limits;
mod ports;

use std::sync::Arc;

pub use handler_memory::handler_memory;
pub use ports::Port;

use gpu::Gpus;
use host::Host;

/// The sources of the figures that RunPod's pod query has under `runtime`, for `/health` and metrics.
#[derive(Clone, Debug)]
pub struct Sensors {
    /// The newest figures of the GPUs.
    pub gpus: Gpus,
    /// The newest figures of the container.
    pub host: Host,
    /// The ports of the container that can be reached from outside.
    pub ports: Arc<[Port]>,
}

impl Sensors {
    /// Bundles the sources.
    pub fn new(gpus: Gpus, host: Host, ports: Vec<Port>) -> Self {
        Self { gpus, host, ports: ports.into() }
    }
}
