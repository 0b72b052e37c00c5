//! Handler processes: starting them, talking to them, ending them, and saying what became of them.
//!
//! [`Processes`] performs the three process effects of the core (`Spawn`, `Send`, `Kill`) without ever blocking, and
//! answers with [`ProcessEvent`](runpod_worker_core::ProcessEvent)s. Nothing here decides what an event means.

mod exit;
mod incarnation;
mod kill;
mod link;
mod memory;
mod oom;
mod output;
mod pool;
mod running;
mod secret_inputs;
mod spawn;

pub use pool::Processes;
pub use spawn::HandlerCommand;

#[cfg(test)]
mod tests;
