//! A RunPod-compatible endpoint: the client API, the worker API and the queue between them.
//!
//! [`store`] decides, [`api`] speaks HTTP, [`console`] shows, [`server`] listens, [`dev`] keeps workers running, [`local`]
//! knows them, [`cli`] is the program.

pub mod api;
pub mod cli;
pub mod console;
pub mod dev;
pub mod local;
pub mod server;
pub mod store;
pub mod worker_env;
