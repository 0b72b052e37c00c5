//! The border of the core. Events come in; effects and reports go out. The policy holds the limits, and the snapshot shows
//! the state.

mod batching;
mod effect;
mod event;
mod gpu_slowdown;
mod gpu_time;
mod ids;
mod policy;
mod poll_blocker;
mod report;
mod snapshot;

pub use batching::{BatchTotals, BatchingView, StepTotals};
pub use effect::{Effect, FinalResult, OutboxItem};
pub use event::{DeliveryEvent, DrainCause, Event, Exit, ExitReason, PollAnswer, ProcessEvent, TakenJob};
pub use gpu_slowdown::{GpuSlowdown, SlowdownReason};
pub use gpu_time::{GpuTime, GpuUse, JobCost, Price};
pub use ids::{Incarnation, JobId, ProcessId, SlotRef, Time};
pub use policy::{OnRefresh, Policy, RecycleLimits};
pub use poll_blocker::PollBlocker;
pub use report::{JobStatus, RecycleReason, Report, StartPhase};
pub use snapshot::{DeviceMemory, JobCounts, PollView, ProcessView, SlotCounts, Snapshot, Versions, WorkerState};
