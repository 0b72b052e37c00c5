//! The state machines of the worker: jobs, slots, processes and the worker as a whole.
//!
//! Everything here is a pure function of what it is told. `Worker::handle(now, event)` returns effects,
//! `Worker::next_deadline()` says when to call again with `Event::Timer`. No clock, no I/O, no async runtime: a test is a
//! list of events.

mod conversation;
pub mod effect;
mod ending;
pub mod event;
mod fitness;
pub mod ids;
mod job;
mod leave;
mod leftover;
pub mod linker;
pub mod policy;
mod process;
mod recent;
mod recovery;
pub mod recycling;
mod schedule;
mod shutdown;
mod slot;
pub mod snapshot;
mod start;
#[cfg(test)]
mod tests;
mod throttle;
pub mod usage;
mod worker;

pub use effect::{Effect, FinalResult, JobStatus, Outgoing, Report, StartPhase};
pub use event::{DeliveryEvent, DrainCause, Event, Exit, ExitReason, PollAnswer, ProcessEvent, TakenJob};
pub use ids::{Epoch, JobId, Place, ProcessId, Time};
pub use policy::{OnRefresh, Policy};
pub use recycling::{RecycleLimits, RecycleReason};
pub use snapshot::{DeviceMemory, JobCounts, PollView, ProcessView, SlotCounts, Snapshot, Versions, WorkerState};
pub use throttle::{ThrottleReason, ThrottledGpu};
pub use usage::{JobCost, Price, Usage, Use};
pub use worker::Worker;
