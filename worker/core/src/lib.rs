//! The decisions of `runpod-worker`: jobs, slots, handler processes and the worker as a whole, as state machines.
//!
//! Everything here is a pure function of its input. [`Worker::handle`] takes one event and returns effects,
//! [`Worker::next_deadline`] says when to call it again with [`Event::Timer`]. There is no clock, no I/O and no async runtime,
//! so a test is a list of events.
//!
//! `boundary` holds what crosses the border of the core, `states` the state machines. Each other file is one rule: an `impl`
//! of [`Worker`] that moves those machines.

mod boundary;
mod handler_text;
mod states;
mod worker;

mod accounting;
mod assign;
mod batches;
mod crashes;
mod ending;
mod fitness;
mod intake;
mod liveness;
mod messages;
mod poll;
mod recycling;
mod refresh;
mod retirement;
mod shutdown;
mod startup;
mod status;
mod undelivered;

pub mod linker;

#[cfg(test)]
mod tests;

pub use boundary::{
    BatchTotals, BatchingView, DeliveryEvent, DeviceMemory, DrainCause, Effect, Event, Exit, ExitReason, FinalResult,
    GpuSlowdown, GpuTime, GpuUse, Incarnation, JobCost, JobCounts, JobId, JobStatus, OnRefresh, OutboxItem, Policy,
    PollAnswer, PollBlocker, PollView, Price, ProcessEvent, ProcessId, ProcessView, RecycleLimits, RecycleReason,
    Report, SlotCounts, SlotRef, SlowdownReason, Snapshot, StartPhase, StepTotals, TakenJob, Time, Versions,
    WorkerState,
};
pub use worker::Worker;
