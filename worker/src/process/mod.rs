//! Handler processes: starts them, exchanges messages with them, kills them and reports how they exited.
//!
//! [`Processes`] performs the three process effects of the core (`Spawn`, `Send`, `Kill`) without ever blocking, and
//! answers with [`ProcessEvent`](runpod_worker_core::ProcessEvent)s. Nothing here decides what an event means.

mod descendants;
mod events;
mod exit;
mod group;
mod handler_log;
mod host_memory;
pub(crate) mod limits;
mod link;
mod output;
mod pool;
mod proc_table;
mod run_folder;
mod running_jobs;
mod secret_inputs;
mod spawn;
mod supervision;

pub use pool::Processes;
pub use spawn::{HandlerCommand, become_script};

#[cfg(test)]
mod tests;
