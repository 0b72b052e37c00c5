//! A RunPod-compatible endpoint: the client API, the worker API and the queue between them.
//!
//! [`store`] decides, [`api`] speaks HTTP, [`server`] listens, [`dev`] keeps workers running, [`cli`] is the program.

pub mod api;
pub mod cli;
pub mod dev;
pub mod faults;
pub mod server;
pub mod store;
pub mod webhooks;
pub mod worker_env;

/// Compiles and runs the examples in the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/endpoint.md")]
struct Documentation;
