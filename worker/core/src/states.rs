//! The state machines of the core, one a file. They use the boundary and each other, and never the rules that move them.

mod absence;
mod ended_jobs;
mod job;
mod jobs;
mod lifecycle;
mod poll;
mod process;
mod recent_results;
mod slot;
mod slots;
mod undelivered;
mod wear;

pub(crate) use absence::Absence;
pub(crate) use ended_jobs::EndedJobs;
pub(crate) use job::{DeliveredJob, Job, JobState};
pub(crate) use jobs::Jobs;
pub(crate) use lifecycle::Lifecycle;
pub(crate) use poll::Poll;
pub(crate) use process::{KillCause, Phase, Process};
pub(crate) use recent_results::RecentResults;
pub(crate) use slot::Slot;
pub(crate) use undelivered::UndeliveredResults;
