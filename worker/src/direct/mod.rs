//! Jobs by HTTP request instead of from a queue: RunPod's load-balancing endpoints and its realtime port.
//!
//! [`DirectQueue`] replaces the platform's queue: a request puts a job in, the worker takes it, and the result goes back to the
//! caller. The rest of the worker is the same, so slots, deadlines, crash policy and drain have one implementation.

pub(crate) mod limits;
mod queue;
mod routes;

use std::net::SocketAddr;
use std::time::Duration;

pub use queue::{DirectQueue, Rejection};
pub use routes::{jobs, local_api, realtime};

/// Where jobs come in by HTTP, and how many may wait.
#[derive(Clone, Debug)]
pub struct DirectConfig {
    /// The address for jobs.
    pub bind: SocketAddr,
    /// Jobs that may wait for a slot.
    pub max_waiting: usize,
    /// How long each job may wait for a slot.
    pub max_wait: Duration,
    /// Connections of the address for jobs.
    pub max_connections: usize,
    /// A second address for health checks, when the platform uses a port of its own for them.
    pub health: Option<SocketAddr>,
    /// The path of the health check.
    pub ping_path: String,
}

impl DirectConfig {
    /// Where to listen: first the address for jobs, then the one for health checks if there is one.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.bind).chain(self.health)
    }
}

#[cfg(test)]
mod tests;
