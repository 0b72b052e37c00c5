//! The queue that jobs come from and results go to: two traits, RunPod's HTTP client for them, and the two long polls.

mod body;
mod extensions;
pub mod hand_back;
mod http;
pub(crate) mod limits;
mod outage;
pub mod poller;
mod result_body;
pub mod stop;
mod tenant;
pub mod wire;

use std::time::Duration;

use bytes::Bytes;

use crate::base::{Secret, UrlTemplate};
use runpod_worker_core::{JobId, TakenJob};

pub use body::{chunk_body, progress_body, result_body, without_stop_pod};
pub use extensions::{Extension, Extensions, ping_interval};
pub use http::{HttpQueue, request_error};
pub use outage::Outage;
pub use result_body::ResultBody;
pub use tenant::TenantField;

/// Where jobs come from.
pub trait JobSource: Send + Sync + 'static {
    /// Waits for up to `want` jobs. `holding` tells the queue that the worker has at least one already.
    /// Ends within the limits of a poll. Dropping the future ends the request.
    fn take(&self, want: usize, holding: bool) -> impl Future<Output = TakeReply> + Send;

    /// Waits for jobs to be stopped, under the same limits.
    fn stops(&self) -> impl Future<Output = StopReply> + Send;

    /// Whether this queue is away. All requests of the worker share it. A queue inside the worker never is.
    fn outage(&self) -> Outage {
        Outage::default()
    }
}

/// Where results go. Each call is one try.
pub trait ResultSink: Send + Sync + 'static {
    /// Posts a final result. `streamed` says that the handler streams.
    fn post_final(&self, job: &JobId, body: ResultBody, streamed: bool) -> impl Future<Output = PostReply> + Send;

    /// Posts a final result of another worker, `worker`, as that worker would have.
    fn post_final_of(
        &self,
        worker: &str,
        job: &JobId,
        body: ResultBody,
        streamed: bool,
    ) -> impl Future<Output = PostReply> + Send {
        let _ = worker;
        self.post_final(job, body, streamed)
    }

    /// Posts one streamed item.
    fn post_chunk(&self, job: &JobId, body: Bytes) -> impl Future<Output = PostReply> + Send;

    /// Hands unfinished jobs back. [`PostReply::NoRoute`] where the queue has not announced that it supports this.
    fn hand_back(&self, jobs: &[JobId]) -> impl Future<Output = PostReply> + Send {
        let _ = jobs;
        std::future::ready(PostReply::NoRoute)
    }

    /// Announces that this worker leaves. [`PostReply::NoRoute`] where the queue has not announced that it supports this.
    fn goodbye(&self) -> impl Future<Output = PostReply> + Send {
        std::future::ready(PostReply::NoRoute)
    }

    /// Posts the newest progress.
    fn post_progress(&self, job: &JobId, body: Bytes) -> impl Future<Output = PostReply> + Send;

    /// As [`JobSource::outage`].
    fn outage(&self) -> Outage {
        Outage::default()
    }
}

/// How the queue answered a request for jobs.
#[derive(Clone, Debug)]
pub enum TakeReply {
    /// At least one job. Those that cannot be run have an error for a body.
    Jobs(Vec<TakenJob>),
    /// No job; the request may be repeated at once.
    Nothing,
    /// The queue answered 429.
    RateLimited {
        /// `Retry-After`, if the queue sent one.
        retry_after: Option<Duration>,
    },
    /// No usable answer.
    Failed {
        /// What went wrong.
        error: RequestError,
        /// `Retry-After`, if the queue sent one.
        retry_after: Option<Duration>,
    },
}

/// How the queue answered on the stop channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReply {
    /// These jobs are to be stopped; at least one.
    Stop(Vec<JobId>),
    /// Nothing to stop.
    Nothing,
    /// There is no stop channel: its URL is derived from the job-take URL, which has no `/job-take/`.
    Unsupported,
    /// The queue answered 429.
    RateLimited {
        /// `Retry-After`, if the queue sent one.
        retry_after: Option<Duration>,
    },
    /// No usable answer.
    Failed {
        /// What went wrong.
        error: RequestError,
        /// `Retry-After`, if the queue sent one.
        retry_after: Option<Duration>,
    },
}

/// How one try to deliver something ended. The outbox decides what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostReply {
    /// The queue answered.
    Status {
        /// HTTP status code.
        code: u16,
        /// `Retry-After`, if the queue sent one.
        retry_after: Option<Duration>,
    },
    /// There was no answer.
    Failed(RequestError),
    /// There is no URL for this kind of message.
    NoRoute,
}

/// Why a request to the queue failed. The texts hold neither URLs nor payloads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No connection, or it broke.
    #[error("the queue cannot be reached: {0}; check the network and the RUNPOD_WEBHOOK_* URLs")]
    Unreachable(String),
    /// It took too long.
    #[error("the queue did not finish its answer within {0:?}; check the network and the queue's load")]
    TimedOut(Duration),
    /// 401 or 403.
    #[error("the queue answered {0}; check RUNPOD_AI_API_KEY")]
    Unauthorized(u16),
    /// 409.
    #[error(
        "the queue answered 409: another process uses this worker's id; give every worker a RUNPOD_POD_ID of its own"
    )]
    DuplicateWorker,
    /// Another status that is not a success.
    #[error("the queue answered {0}; check the RUNPOD_WEBHOOK_* URLs and the queue's log")]
    Status(u16),
    /// A success whose body cannot be used.
    #[error(
        "the queue's answer cannot be used: {0}; check that the RUNPOD_WEBHOOK_* URLs lead to a RunPod-style queue"
    )]
    Unusable(String),
}

impl RequestError {
    /// The error for a status code that is not a success.
    pub fn from_status(code: u16) -> Self {
        match code {
            401 | 403 => Self::Unauthorized(code),
            _ => Self::Status(code),
        }
    }

    /// Whether the queue is not available, as opposed to an answer that this request is wrong.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut(_) => true,
            Self::Status(code) => *code >= 500,
            Self::Unauthorized(_) | Self::Unusable(_) | Self::DuplicateWorker => false,
        }
    }

    /// The kind of failure. A failure of the same kind as the last one is not logged again.
    pub fn kind(&self) -> (&'static str, u16) {
        match self {
            Self::Unreachable(_) => ("unreachable", 0),
            Self::TimedOut(_) => ("timed_out", 0),
            Self::DuplicateWorker => ("duplicate_worker", 409),
            Self::Unauthorized(code) | Self::Status(code) => ("status", *code),
            Self::Unusable(_) => ("unusable", 0),
        }
    }
}

/// What the HTTP queue needs to know.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// What the queue announces; shared with the heartbeat.
    pub extensions: Extensions,
    /// Job-take (`RUNPOD_WEBHOOK_GET_JOB`).
    pub take: UrlTemplate,
    /// Job-done (`RUNPOD_WEBHOOK_POST_OUTPUT`).
    pub done: UrlTemplate,
    /// Job-stream (`RUNPOD_WEBHOOK_POST_STREAM`); without it chunks are dropped.
    pub stream: Option<UrlTemplate>,
    /// Sent raw, without a scheme, as `Authorization`.
    pub key: Secret,
    /// Replaces `$ID` in `take`.
    pub worker_id: String,
    /// The field of a job that names its tenant.
    pub tenant: Option<TenantField>,
}

#[cfg(test)]
mod tests;
