//! A RunPod-compatible endpoint: the client API, the worker API and the queue between them.
//!
//! [`store`] decides, [`api`] speaks HTTP, [`console`] shows, [`monitoring`] counts, [`alerts`] tells of trouble, [`server`]
//! listens, [`fleet`] runs local workers, [`local`] knows them, [`cli`] is the program.

pub mod alerts;
pub mod api;
pub mod cli;
pub mod console;
pub mod faults;
pub mod fleet;
pub mod local;
pub mod monitoring;
mod secret;
pub mod server;
pub mod store;
pub mod webhooks;
pub mod worker_env;

/// Compiles and runs the examples in the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/endpoint.md")]
struct Documentation;
