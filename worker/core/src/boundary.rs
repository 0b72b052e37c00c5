//! What crosses the border of the core: events come in, effects and reports go out, a snapshot shows the state, the policy
//! holds the limits.

mod effect;
mod event;
mod gpu_slowdown;
mod gpu_time;
mod ids;
mod policy;
mod report;
mod snapshot;

pub use effect::{Effect, FinalResult, OutboxItem};
pub use event::{DeliveryEvent, DrainCause, Event, Exit, ExitReason, PollAnswer, ProcessEvent, TakenJob};
pub(crate) use gpu_slowdown::describe_slowdowns;
pub use gpu_slowdown::{GpuSlowdown, SlowdownReason};
pub use gpu_time::{GpuTime, JobCost, Price, TimeCategory};
pub use ids::{Epoch, JobId, ProcessId, SlotRef, Time};
pub use policy::{OnRefresh, Policy, RecycleLimits};
pub use report::{JobStatus, RecycleReason, Report, StartPhase};
pub use snapshot::{DeviceMemory, JobCounts, PollView, ProcessView, SlotCounts, Snapshot, Versions, WorkerState};
