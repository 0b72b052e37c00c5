//! The jobs of a test: what is submitted, what is seen of it, and how it ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::ErrorReport;
use serde_json::{Value, json};

/// Time until the deadline of a job that has none of its own: longer than a test should take.
const DEADLINE: Duration = Duration::from_secs(600);

/// A job that was submitted to a [`Harness`](super::Harness).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TestJob(pub(super) u64);

/// A job to submit.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRequest {
    pub(super) object: JobObject,
    pub(super) deadline: Duration,
}

/// The job as the queue would send it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum JobObject {
    Json(Value),
    Raw(Bytes),
}

impl JobRequest {
    /// A job with this input.
    pub fn input(input: &Value) -> Self {
        Self::object(&json!({ "input": input }))
    }

    /// A job given as the whole object that the queue sends: with `input` and any other field that the handler reads with
    /// [`Job::field`](crate::Job::field). Its `id` is the job's, if it has one.
    pub fn object(job: &Value) -> Self {
        Self { object: JobObject::Json(job.clone()), deadline: DEADLINE }
    }

    /// A job given as text, which need not be JSON.
    pub fn raw(text: impl Into<Vec<u8>>) -> Self {
        Self { object: JobObject::Raw(Bytes::from(text.into())), deadline: DEADLINE }
    }

    /// Time until the deadline of the job; by default ten minutes.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The id of the job, and its text.
    pub(super) fn id_and_text(self, job: TestJob) -> (String, Bytes) {
        let default = format!("test-job-{}", job.0);
        match self.object {
            JobObject::Raw(text) => (default, text),
            JobObject::Json(mut object) => {
                let id = object["id"].as_str().map_or(default, str::to_owned);
                if let Some(fields) = object.as_object_mut() {
                    fields.insert("id".to_owned(), json!(id));
                }
                (id, object.to_string().into())
            }
        }
    }
}

impl From<&Value> for JobRequest {
    fn from(input: &Value) -> Self {
        Self::input(input)
    }
}

/// What a job has done so far.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Seen {
    /// It was passed to the handler.
    pub started: bool,
    /// The chunks that it streamed, in order.
    pub chunks: Vec<Value>,
    /// All progress that it reported, in order. A real worker may skip some of it for newer progress.
    pub progress: Vec<Value>,
}

/// The result of a completed job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finished {
    /// Its output, as the caller would receive it.
    pub output: Value,
    /// The chunks that it streamed, in order.
    pub chunks: Vec<Value>,
    /// Its last progress, if it reported any.
    pub progress: Option<Value>,
    /// The values that it recorded, and the memory that it used.
    pub records: BTreeMap<String, f64>,
    /// Whether it asked for a fresh worker.
    pub refresh: bool,
}

/// How a job ended.
#[derive(Debug)]
pub(super) enum End {
    Done { output: Value, records: BTreeMap<String, f64>, refresh: bool },
    Failed(ErrorReport),
    Exited { status: u8 },
}

/// A job that was sent to the handler.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) id: String,
    /// `None` once it has been asked to stop.
    pub(super) deadline: Option<Instant>,
    pub(super) seen: Seen,
    pub(super) end: Option<End>,
}
