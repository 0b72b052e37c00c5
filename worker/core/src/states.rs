//! The state machines of the core, one a file. They know the boundary and each other, and nothing of the rules that move
//! them.

pub(crate) mod absence;
pub(crate) mod job;
pub(crate) mod lifecycle;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod recent_results;
pub(crate) mod slot;
pub(crate) mod undelivered;
pub(crate) mod wear;

pub(crate) use absence::Leave;
pub(crate) use job::{Job, JobState};
pub(crate) use lifecycle::Lifecycle;
pub(crate) use poll::Poll;
pub(crate) use process::{KillCause, Phase, Process};
pub(crate) use recent_results::Recent;
pub(crate) use slot::Slot;
pub(crate) use undelivered::Leftovers;
