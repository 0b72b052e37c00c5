//! The state machines of the worker: jobs, slots, processes and the worker as a whole.
//!
//! Everything here is a pure function of its input. [`Worker::handle`] takes one event and returns effects,
//! [`Worker::next_deadline`] says when to call again with [`Event::Timer`]. No clock, no I/O, no async runtime: a test is a
//! list of events.

pub mod boundary;
mod states;
mod worker;

mod accounting;
mod crashes;
mod ending;
mod fitness;
pub mod linker;
mod messages;
mod poll;
mod recycling;
mod refresh;
mod shutdown;
mod startup;
mod undelivered;

#[cfg(test)]
mod tests;

pub use boundary::{
    DeliveryEvent, DeviceMemory, DrainCause, Effect, Epoch, Event, Exit, ExitReason, FinalResult, GpuSlowdown, GpuTime,
    JobCost, JobCounts, JobId, JobStatus, OnRefresh, OutboxItem, Policy, PollAnswer, PollView, Price, ProcessEvent,
    ProcessId, ProcessView, RecycleLimits, RecycleReason, Report, SlotCounts, SlotRef, SlowdownReason, Snapshot,
    StartPhase, TakenJob, Time, TimeCategory, Versions, WorkerState,
};
pub use worker::Worker;
