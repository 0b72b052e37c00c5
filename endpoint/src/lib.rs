//! A RunPod-compatible endpoint: the client API, the worker API and the queue between them.
//!
//! [`store`] decides, [`api`] speaks HTTP, [`console`] shows, [`monitoring`] counts, [`server`] listens, [`dev`] keeps
//! workers running, [`local`] knows them, [`cli`] is the program.

pub mod api;
pub mod cli;
pub mod console;
pub mod dev;
pub mod faults;
pub mod local;
pub mod monitoring;
pub mod server;
pub mod store;
pub mod webhooks;
pub mod worker_env;

/// Compiles and runs the examples in the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/endpoint.md")]
struct Documentation;
