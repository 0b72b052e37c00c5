//! A RunPod-compatible endpoint: the client API, the worker API and the queue between them.
//!
//! [`store`] holds the jobs and decides, [`api`] serves it over HTTP, [`console`] shows it, [`monitoring`] counts, [`alerts`] sends
//! alerts, [`server`] listens, [`fleet`] runs local workers, [`local`] records their state, [`overflow`] has late jobs run by another
//! endpoint, `balancer` passes HTTP requests on to workers that answer them themselves, [`cli`] is the program.

pub mod alerts;
pub mod api;
mod balancer;
pub mod cli;
pub mod console;
pub mod faults;
pub mod fleet;
pub mod local;
pub mod monitoring;
pub mod overflow;
mod secret;
pub mod server;
pub mod store;
pub mod webhooks;
pub mod worker_env;

/// Compiles and runs the examples in the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/endpoint.md")]
struct Documentation;
