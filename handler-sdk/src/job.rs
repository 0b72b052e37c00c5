//! What a handler knows about, and can do with, the job it is running.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use runpod_handler_protocol::{CancelReason, ErrorKind, ToSupervisor};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::encode::{EncodeError, encode};
use crate::outgoing::Outgoing;
use crate::running::RunningJob;
use crate::text::log;
use crate::{HandlerError, input};

/// Most figures one job may record.
const MAX_RECORDS: usize = 32;
/// Longest name of a recorded figure, in bytes.
const MAX_RECORD_NAME: usize = 64;

/// The job must end: it was cancelled, its deadline has passed, or the worker is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job was stopped: {reason}")]
pub struct Stopped {
    reason: CancelReason,
}

impl Stopped {
    pub(crate) fn new(reason: CancelReason) -> Self {
        Self { reason }
    }

    /// Why.
    pub fn reason(&self) -> CancelReason {
        self.reason
    }

    pub(crate) fn kind(self) -> ErrorKind {
        match self.reason {
            CancelReason::Deadline => ErrorKind::Timeout,
            CancelReason::Stopped | CancelReason::Drain => ErrorKind::Cancelled,
        }
    }
}

/// A chunk that was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The job must end.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The chunk has no JSON form or is too large.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A running job. It can be lent to scoped threads: all methods take `&self` and it is `Sync`.
#[derive(Debug)]
pub struct Job<C> {
    running: Arc<RunningJob>,
    outgoing: Arc<Outgoing>,
    fields: HashMap<String, Box<RawValue>>,
    temp_dir: OnceLock<TempDir>,
    records: Mutex<BTreeMap<String, f64>>,
    refresh: AtomicBool,
    _chunk: PhantomData<fn(C)>,
}

impl<C> Job<C> {
    pub(crate) fn new(
        running: Arc<RunningJob>,
        outgoing: Arc<Outgoing>,
        fields: HashMap<String, Box<RawValue>>,
    ) -> Self {
        Self {
            running,
            outgoing,
            fields,
            temp_dir: OnceLock::new(),
            records: Mutex::default(),
            refresh: AtomicBool::new(false),
            _chunk: PhantomData,
        }
    }

    /// Id of the job on the platform. Together with what the job does it is an idempotency key: a job may be run more than
    /// once.
    pub fn id(&self) -> &str {
        &self.running.id
    }

    /// 1 for the first run on this worker, more when it is run again after a crash.
    pub fn attempt(&self) -> u32 {
        self.running.attempt
    }

    /// W3C trace context of the job, if it carried one.
    pub fn traceparent(&self) -> Option<&str> {
        self.running.traceparent.as_deref()
    }

    /// When the job must be finished.
    pub fn deadline(&self) -> Instant {
        self.running.deadline
    }

    /// Time left until the deadline; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.running.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether the job must end: cancelled, over its deadline, or the worker is shutting down. Cheap enough for every step.
    pub fn is_cancelled(&self) -> bool {
        self.running.stopped().is_some()
    }

    /// A cancellation point: `job.check()?` between steps ends a job that must end.
    ///
    /// # Errors
    /// [`Stopped`], with the reason.
    pub fn check(&self) -> Result<(), Stopped> {
        self.running.stopped().map_or(Ok(()), Err)
    }

    /// The newest progress, shown to whoever asks for the job's status. Never blocks; a value that has not left yet is
    /// replaced by the next one. A value that cannot be sent is logged and dropped.
    pub fn progress(&self, value: impl Serialize) {
        match encode("progress", &value) {
            Ok(payload) => {
                let message = ToSupervisor::Progress { job: self.running.id.clone(), attempt: self.running.attempt };
                self.outgoing.push(&message, payload);
            }
            Err(error) => log(format_args!("{error}; this progress is dropped")),
        }
    }

    /// A folder for this job alone, created at the first call and removed when the job ends.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn temp_dir(&self) -> io::Result<&Path> {
        if let Some(dir) = self.temp_dir.get() {
            return Ok(dir.path());
        }
        // A thread that loses the race drops its own folder, which removes it.
        let dir = tempfile::Builder::new().prefix("job-").tempdir()?;
        Ok(self.temp_dir.get_or_init(|| dir).path())
    }

    /// Records a figure about the job; it goes to the worker's log, not to the caller. `items`, `tokens`, `images` and
    /// `audio_seconds` are also summed up in the worker's metrics, over all jobs that complete, so that a rate can be had: say
    /// `job.record("tokens", 512.0)`. At most 32 names of 64 bytes a job; what is over, or not finite, is logged and dropped.
    pub fn record(&self, name: &str, value: f64) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let room = records.len() < MAX_RECORDS || records.contains_key(name);
        if room && name.len() <= MAX_RECORD_NAME && value.is_finite() {
            records.insert(name.to_owned(), value);
        } else {
            log(format_args!(
                "a recorded figure is dropped: at most {MAX_RECORDS} names of {MAX_RECORD_NAME} bytes, finite numbers only"
            ));
        }
    }

    /// Asks for a fresh worker once this job is done, as after a leak that only a new process cures.
    pub fn request_refresh(&self) {
        self.refresh.store(true, Ordering::Relaxed);
    }

    /// Another top-level field of the job, such as `s3Config`; `None` when the job has none or it is `null`.
    ///
    /// # Errors
    /// When the field is not of that form. The message names the path but never the value, which may be a secret.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, HandlerError> {
        match self.fields.get(name) {
            Some(raw) => input::parse_field(name, raw),
            None => Ok(None),
        }
    }

    pub(crate) fn refresh_requested(&self) -> bool {
        self.refresh.load(Ordering::Relaxed)
    }

    pub(crate) fn into_records(self) -> BTreeMap<String, f64> {
        self.records.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Serialize> Job<C> {
    /// Streams one item. Items arrive in order; the call blocks while too many are on their way, so a slow reader slows the
    /// handler down instead of filling its memory.
    ///
    /// # Errors
    /// [`EmitError::Stopped`] when the job must end (also while blocked), [`EmitError::Encode`] when the item cannot be sent.
    pub fn emit(&self, chunk: C) -> Result<(), EmitError> {
        let payload = encode("chunk", &chunk)?;
        self.running.send_chunk(payload.len(), |seq| {
            let (job, attempt) = (self.running.id.clone(), self.running.attempt);
            self.outgoing.push(&ToSupervisor::Chunk { job, attempt, seq }, payload);
        })?;
        Ok(())
    }
}
