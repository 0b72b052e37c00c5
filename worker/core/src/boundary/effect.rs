//! Everything the state machine can ask for. The dispatcher performs effects in the order given.

use std::borrow::Cow;

use super::gpu_time::JobCost;
use super::ids::{Epoch, JobId, ProcessId};
use super::report::Report;
use bytes::Bytes;
use runpod_handler_protocol::{ErrorReport, ToHandler};

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask the queue for jobs. At most one poll is in flight; it ends with `Event::Poll`.
    Poll {
        /// How many jobs can start now.
        want: usize,
        /// The worker holds at least one job.
        holding: bool,
    },
    /// Give up the poll in flight; it still ends with `Event::Poll`.
    AbortPoll,
    /// Start a handler process.
    Spawn {
        /// Which.
        process: ProcessId,
        /// Incarnation to tag its events with.
        epoch: Epoch,
    },
    /// Send a message to a handler process.
    Send {
        /// Which.
        process: ProcessId,
        /// The message.
        message: ToHandler,
        /// Its payload.
        payload: Bytes,
    },
    /// Kill a handler process and everything it started, at once.
    Kill {
        /// Which.
        process: ProcessId,
    },
    /// Put something into a job's lane of the outbox.
    Deliver {
        /// The job.
        job: JobId,
        /// What.
        item: OutboxItem,
    },
    /// Tell the platform that this worker cannot work.
    ReportUnhealthy {
        /// Short name of what failed.
        check: Cow<'static, str>,
        /// One sentence.
        reason: String,
    },
    /// Something worth a log line and a metric.
    Report(Report),
    /// Everything is over.
    Exit {
        /// 0, or 1 when the worker was unhealthy.
        code: u8,
    },
}

/// What goes through a job's lane: chunks in order, the newest progress, one end.
#[derive(Clone, Debug)]
pub enum OutboxItem {
    /// One streamed item.
    Chunk {
        /// Attempt that emitted it.
        attempt: u32,
        /// Its sequence number.
        seq: u64,
        /// The item as JSON.
        payload: Bytes,
    },
    /// The newest progress value as JSON.
    Progress(Bytes),
    /// The result; nothing follows it.
    Final(FinalResult),
    /// Nothing is to be posted for this job any more.
    Discard,
}

/// The final result of a job, as it is posted.
#[derive(Clone, Debug)]
pub struct FinalResult {
    /// Output or error.
    pub result: Result<Bytes, ErrorReport>,
    /// The handler streams, which the platform is told with the result.
    pub streamed: bool,
    /// Ask the platform to recycle this worker.
    pub stop_pod: bool,
    /// What the job has used up, if the result is to say so.
    pub cost: Option<JobCost>,
}
