//! Jobs by HTTP request instead of from a queue: RunPod's load-balancing endpoints and its realtime port.
//!
//! The worker stays what it is. [`DirectQueue`] stands where the platform's queue stands: a request puts a job in, the worker
//! takes it, and the result goes back to the caller who waits for it. So slots, deadlines, crash policy and drain are the same.

mod queue;
mod routes;

pub use queue::{DirectQueue, Refused};
pub use routes::{jobs, realtime};

#[cfg(test)]
mod tests;
