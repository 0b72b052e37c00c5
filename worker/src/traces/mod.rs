//! Traces: one span for each job and one for each phase of its life, made from the core's reports and exported over OTLP.
//!
//! The spans of a job: `queue` (if the job tells how long it has waited), `take`, `dispatch` (it waits for a slot here), `run`
//! (one per attempt) and `deliver`, all below `job`, whose parent is the `traceparent` that the job came with.

mod export;
pub(crate) mod limits;
mod spans;

pub use export::{TraceConfig, TraceError, TraceExport};
pub use spans::Traces;
pub(crate) use spans::trace_id;

#[cfg(test)]
mod tests;
