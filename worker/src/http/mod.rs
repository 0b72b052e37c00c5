//! The worker's own HTTP server: health, readiness and metrics.
//!
//! Answers come from the latest snapshot of the core and from a few atomics. Neither user code nor the dispatcher is asked,
//! so an answer never waits for a busy GPU.

mod health;
mod metrics;
mod ready;
mod server;
mod vitals;

pub use server::{BindError, HttpState, bind, serve};
pub use vitals::Vitals;
