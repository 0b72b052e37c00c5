//! Why a store refuses.

use std::sync::Arc;

use super::batch::BatchState;
use super::status::Status;

/// Why the store refused a request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// No such job, or its record has expired.
    #[error("job not found: the id is wrong or its record has expired; submit the job again")]
    JobNotFound,
    /// A job with this id exists.
    #[error("a job with this id exists already; submit it under another id")]
    DuplicateJob,
    /// Too many jobs or too many payload bytes.
    #[error("the queue is full; wait until jobs finish, start more workers or purge the queue")]
    QueueFull,
    /// More jobs wait than the operator allows.
    #[error("as many jobs wait as may: the operator allows {0} (max_queued); try again when workers have taken some")]
    TooManyQueued(usize),
    /// The key of this submission belongs to another one.
    #[error("this Idempotency-Key was used for another request; use a new key, or repeat that request byte for byte")]
    KeyReused,
    /// Too many endpoint ids in use.
    #[error("too many endpoints are in use; use one of the existing endpoint ids")]
    TooManyEndpoints,
    /// The client does not read the stream of this job.
    #[error("the stream buffer of this job is full; read it with /stream or send fewer items")]
    StreamFull,
    /// Clients do not read the streams of many jobs.
    #[error("the unread stream items of all jobs fill their memory; read them with /stream or send fewer items")]
    StreamsFull,
    /// The stream of a cancelled job was read to its end.
    #[error("the job was cancelled and its stream has been read to the end")]
    StreamEnded,
    /// `/retry` of a job that did not fail.
    #[error("only FAILED and TIMED_OUT jobs can be retried; this job is {}", .0.name())]
    NotRetryable(Status),
    /// There is no webhook of this job to send again.
    #[error("no webhook of this job was given up; only those in the list of /webhooks can be sent again")]
    NothingToResend,
    /// No such batch, or its life is over.
    #[error("batch not found: the id is wrong or the batch has expired")]
    BatchNotFound,
    /// The state of the batch forbids the operation.
    #[error("the batch is {}: requests can be added and removed, and the batch finalized, only while it is DRAFT", .0.name())]
    BatchState(BatchState),
    /// A batch whose requests have ended cannot be cancelled.
    #[error("the batch has ended: all of its requests have, and it stays as it is")]
    BatchEnded,
    /// A request of a batch that was cancelled cannot run again.
    #[error("the batch of this job was cancelled; submit the input again as a job of its own")]
    BatchCancelled,
    /// A batch without requests cannot be finalized.
    #[error("the batch is empty: add requests before it is finalized")]
    EmptyBatch,
    /// Too many batches have not ended.
    #[error(
        "{0} batches of this endpoint have not ended; wait until one ends, or cancel one (the operator sets --max-batches)"
    )]
    TooManyBatches(usize),
    /// A batch would have too many requests.
    #[error(
        "a batch has at most {0} requests; submit the rest as another batch (the operator sets --max-batch-requests)"
    )]
    BatchTooLarge(usize),
    /// Another process serves under this worker id.
    #[error("another process uses the worker id {0:?}; give every worker an id of its own (RUNPOD_POD_ID)")]
    WorkerIdInUse(Arc<str>),
    /// Large results that are being sent fill their memory.
    #[error("too many large results are being sent; try again in 1 s")]
    ReadMemoryFull,
    /// The data file or the database cannot be written or read at the moment.
    #[error("the endpoint cannot use its data at the moment: {0}; send the request again later")]
    Unavailable(Arc<str>),
    /// The database refuses what is to be written or looked for.
    #[error("the database refuses this request, and would again: {0}; nothing was changed, send another one")]
    Refused(Arc<str>),
}
