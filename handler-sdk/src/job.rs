//! What a handler can learn about, and do with, the job that it is running.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

#[cfg(feature = "async")]
use bytes::Bytes;
use parking_lot::Mutex;
use runpod_handler_protocol::ToSupervisor;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::encode::encode;
use crate::error::HandlerError;
use crate::input::parse_field;
use crate::running_job::RunningJob;
use crate::send_queue::SendQueue;
use crate::stopped::{EmitError, Stopped};
use crate::text::log;

/// Most values that one job may record.
const MAX_RECORDS: usize = 32;
/// Longest name of a recorded value, in bytes.
const MAX_RECORD_NAME: usize = 64;

/// A running job. All methods take `&self` and the type is `Sync`, so scoped threads can share it.
#[derive(Debug)]
pub struct Job<C> {
    running: Arc<RunningJob>,
    queue: Arc<SendQueue>,
    fields: HashMap<String, Box<RawValue>>,
    temp_dir: OnceLock<TempDir>,
    records: Mutex<BTreeMap<String, f64>>,
    refresh: AtomicBool,
    _chunk: PhantomData<fn(C)>,
}

impl<C> Job<C> {
    pub(crate) fn new(running: Arc<RunningJob>, queue: Arc<SendQueue>, fields: HashMap<String, Box<RawValue>>) -> Self {
        Self {
            running,
            queue,
            fields,
            temp_dir: OnceLock::new(),
            records: Mutex::default(),
            refresh: AtomicBool::new(false),
            _chunk: PhantomData,
        }
    }

    /// Id of the job on the platform. A job may run more than once: use the id in the idempotency key of any side effect.
    pub fn id(&self) -> &str {
        &self.running.id
    }

    /// 1 for the first run on this worker, more when the job runs again after a crash.
    pub fn attempt(&self) -> u32 {
        self.running.attempt
    }

    /// W3C trace context of the job, if it has one.
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

    /// Whether the job must end: it was cancelled, its deadline has passed, or the worker is shutting down. Cheap enough to
    /// call in every step.
    pub fn is_stopped(&self) -> bool {
        self.running.stopped().is_some()
    }

    /// A place where a job that must end does end: call `job.stop_point()?` between two steps of long work.
    ///
    /// # Errors
    /// [`Stopped`], with the reason, when the job must end.
    pub fn stop_point(&self) -> Result<(), Stopped> {
        self.running.stopped().map_or(Ok(()), Err)
    }

    /// Reports progress, which the job's status then shows. Never blocks: a newer value replaces one that has not been sent
    /// yet. A value that cannot be sent is logged and dropped.
    pub fn progress(&self, value: impl Serialize) {
        match encode("progress", &value) {
            Ok(payload) => {
                let message = ToSupervisor::Progress { job: self.running.id.clone(), attempt: self.running.attempt };
                self.queue.push(&message, payload);
            }
            Err(error) => log(format_args!("{error}; this progress is dropped")),
        }
    }

    /// A temporary directory for this job alone, created at the first call and removed when the job ends.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn temp_dir(&self) -> io::Result<&Path> {
        if let Some(dir) = self.temp_dir.get() {
            return Ok(dir.path());
        }
        // A thread that loses the race drops its own directory, which removes it.
        let mut builder = tempfile::Builder::new();
        builder.prefix("job-");
        // The worker names a directory that it removes after the process, should the process be killed.
        let dir = match std::env::var_os("RUNPOD_HANDLER_TEMP_DIR").filter(|parent| !parent.is_empty()) {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir()?,
        };
        Ok(self.temp_dir.get_or_init(|| dir).path())
    }

    /// Records a value about the job, for example `job.record("tokens", 512.0)`. It appears in the worker's log, not in the
    /// job's result. For the names `items`, `tokens`, `images` and `audio_seconds` the worker's metrics also add up the
    /// values of all completed jobs, so that a rate can be computed.
    ///
    /// A job can record 32 names of at most 64 bytes each. A value beyond that limit, or one that is not finite, is logged and
    /// dropped.
    pub fn record(&self, name: &str, value: f64) {
        let mut records = self.records.lock();
        let fits = records.len() < MAX_RECORDS || records.contains_key(name);
        if fits && name.len() <= MAX_RECORD_NAME && value.is_finite() {
            records.insert(name.to_owned(), value);
        } else {
            log(format_args!(
                "a recorded value is dropped: a job can record {MAX_RECORDS} names of at most {MAX_RECORD_NAME} bytes, \
                 and only finite numbers"
            ));
        }
    }

    /// Asks for a fresh worker once this job is finished, for example after a leak that only a new process cures.
    pub fn request_refresh(&self) {
        self.refresh.store(true, Ordering::Relaxed);
    }

    /// Another top-level field of the job, such as `s3Config`; `None` when the job does not have it or it is `null`.
    ///
    /// # Errors
    /// When the field does not have the form of `T`. The message names the path but never the value, which may be a secret.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, HandlerError> {
        match self.fields.get(name) {
            Some(raw) => parse_field(name, raw),
            None => Ok(None),
        }
    }

    pub(crate) fn running(&self) -> Arc<RunningJob> {
        Arc::clone(&self.running)
    }

    /// Whether the job has emitted a chunk, so that it must not run again.
    pub(crate) fn has_streamed(&self) -> bool {
        self.running.has_streamed()
    }

    pub(crate) fn refresh_requested(&self) -> bool {
        self.refresh.load(Ordering::Relaxed)
    }

    /// Takes out what was recorded.
    #[cfg(feature = "async")]
    pub(crate) fn take_records(&self) -> BTreeMap<String, f64> {
        std::mem::take(&mut self.records.lock())
    }

    /// Passes an encoded chunk on once the window has room for it.
    #[cfg(feature = "async")]
    pub(crate) async fn emit_encoded(&self, payload: Bytes) -> Result<(), Stopped> {
        let chunk = |seq| {
            let (job, attempt) = (self.running.id.clone(), self.running.attempt);
            self.queue.push(&ToSupervisor::Chunk { job, attempt, seq }, payload.clone());
        };
        self.running.send_chunk_when_possible(payload.len(), chunk).await
    }

    pub(crate) fn into_records(self) -> BTreeMap<String, f64> {
        self.records.into_inner()
    }
}

impl<C: Serialize> Job<C> {
    /// Streams one chunk. Chunks arrive in order. The call blocks while too many chunks are unacknowledged, so a slow reader
    /// slows the handler down instead of filling its memory.
    ///
    /// # Errors
    /// [`EmitError::Stopped`] when the job must end (also while the call blocks), [`EmitError::Encode`] when the chunk cannot
    /// be sent.
    pub fn emit(&self, chunk: C) -> Result<(), EmitError> {
        let payload = encode("chunk", &chunk)?;
        self.running.send_chunk(payload.len(), |seq| {
            let (job, attempt) = (self.running.id.clone(), self.running.attempt);
            self.queue.push(&ToSupervisor::Chunk { job, attempt, seq }, payload);
        })?;
        Ok(())
    }
}
