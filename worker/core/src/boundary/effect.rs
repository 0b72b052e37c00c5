//! Everything that the state machine can ask for. The dispatcher performs effects in the order given.

#![expect(missing_docs, reason = "a field that is named after what it holds needs no sentence")]

use std::borrow::Cow;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorReport, ToHandler};

use super::gpu_time::JobCost;
use super::ids::{Incarnation, JobId, ProcessId};
use super::report::Report;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask the queue for jobs. At most one poll is in flight; it ends with [`Event::Poll`](super::Event::Poll).
    Poll {
        /// How many jobs can start now.
        want: usize,
        /// The worker holds at least one job.
        holding: bool,
    },
    /// Give up the poll in flight; it still ends with [`Event::Poll`](super::Event::Poll).
    AbortPoll,
    /// Start a handler process.
    Spawn {
        process: ProcessId,
        /// The incarnation, with which its events are tagged.
        incarnation: Incarnation,
    },
    /// Send a message to a handler process.
    Send { process: ProcessId, message: ToHandler, payload: Bytes },
    /// Kill a handler process and everything that it started, at once.
    Kill { process: ProcessId },
    /// Put something into a job's lane of the outbox.
    Deliver {
        job: JobId,
        /// What to put there.
        item: OutboxItem,
    },
    /// Tell the queue that this worker will not answer the job, so that it need not wait for the job's lease. Only queues
    /// that support it are told.
    HandBack { job: JobId },
    /// Report to the platform that this worker cannot work.
    ReportUnhealthy {
        /// Short name of what failed.
        check: Cow<'static, str>,
        /// One sentence.
        reason: String,
    },
    /// Log and count something that has happened.
    Report(Report),
    /// The worker is over.
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
        /// The attempt that emitted it.
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
    /// Nothing more is posted for this job.
    Discard,
}

/// The final result of a job, as it is posted.
#[derive(Clone, Debug)]
pub struct FinalResult {
    /// Output or error.
    pub result: Result<Bytes, ErrorReport>,
    /// The handler streams; the platform wants to know with the result.
    pub streamed: bool,
    /// Ask the platform to replace this worker.
    pub stop_pod: bool,
    /// GPU time and price of the job, if results are configured to carry them.
    pub cost: Option<JobCost>,
}
