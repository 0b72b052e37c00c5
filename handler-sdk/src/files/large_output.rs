//! Outputs over the limit of the platform go to the bucket, and a link to them is returned.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::context::{Context, Shared};
use super::job_files::bucket;
use super::runtime;
use super::upload::{Upload, Uploaded, upload};
use crate::encode::{EncodeError, encode};
use crate::error::HandlerError;
use crate::file_error::FileError;
use crate::job::Job;

const NAME: &str = "output.json";

/// What the job returns in place of its output.
#[derive(Serialize)]
struct Replaced {
    output_file: Uploaded,
}

/// An output that is ready to be sent, or has to be uploaded first.
pub(crate) enum Encoded {
    /// What is sent.
    Json(Bytes),
    /// It has `len` bytes; a link to the upload is sent instead. The job's temporary folder must exist until the upload has ended.
    TooLarge { len: usize, upload: BoxFuture<'static, Result<Uploaded, FileError>> },
}

impl Encoded {
    /// What is sent. Blocks while a large output is uploaded.
    pub(crate) fn wait(self) -> Result<Bytes, HandlerError> {
        match self {
            Self::Json(json) => Ok(json),
            Self::TooLarge { len, upload } => replace(len, runtime::wait(upload)),
        }
    }

    /// As [`wait`](Self::wait), for an async handler.
    #[cfg(feature = "async")]
    pub(crate) async fn ready(self) -> Result<Bytes, HandlerError> {
        match self {
            Self::Json(json) => Ok(json),
            Self::TooLarge { len, upload } => replace(len, runtime::join(upload).await),
        }
    }

    /// Passes on what is sent: at once, or from the thread of the transfers when a large output is uploaded. Never blocks.
    pub(crate) fn deliver(self, then: impl FnOnce(Result<Bytes, HandlerError>) + Send + 'static) {
        match self {
            Self::Json(json) => then(Ok(json)),
            Self::TooLarge { len, upload } => runtime::then(upload, move |uploaded| then(replace(len, uploaded))),
        }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, len) = match self {
            Self::Json(json) => ("Json", json.len()),
            Self::TooLarge { len, .. } => ("TooLarge", *len),
        };
        f.debug_struct(name).field("len", &len).finish_non_exhaustive()
    }
}

/// Writes the output of `job` as JSON. One over the limit has to be uploaded if there is a bucket, and is replaced by a link.
pub(crate) fn encode_or_upload<C>(job: &Job<C>, output: &impl Serialize) -> Result<Encoded, HandlerError> {
    match Shared::of_process() {
        Ok(shared) => encode_or_upload_with(&shared, job, output),
        // Without certificates nothing can be uploaded.
        Err(_) => Ok(Encoded::Json(encode("output", output)?)),
    }
}

pub(crate) fn encode_or_upload_with<C>(
    shared: &Arc<Shared>,
    job: &Job<C>,
    output: &impl Serialize,
) -> Result<Encoded, HandlerError> {
    let encoded = encode("output", output);
    let len = match &encoded {
        Ok(json) => json.len(),
        Err(EncodeError::TooLarge { len, .. }) => *len,
        Err(EncodeError::Json { .. }) => return Ok(Encoded::Json(encoded?)),
    };
    if shared.settings.upload_above(job.id()).is_none_or(|limit| len as u64 <= limit) {
        return Ok(Encoded::Json(encoded?));
    }
    let Some(bucket) = bucket(job, shared).map_err(|error| failed(len, &error))? else {
        return Ok(Encoded::Json(encoded?));
    };
    let file = match encoded {
        Ok(json) => Upload::bytes(NAME, json),
        Err(_) => Upload::file(write(job, output).map_err(|error| failed(len, &error))?),
    };
    let context = Context { running: job.running(), shared: Arc::clone(shared) };
    Ok(Encoded::TooLarge { len, upload: Box::pin(async move { upload(&context, Some(&bucket), file).await }) })
}

/// The output in place of one with `len` bytes.
fn replace(len: usize, uploaded: Result<Uploaded, FileError>) -> Result<Bytes, HandlerError> {
    let output_file = uploaded.map_err(|error| failed(len, &error))?;
    Ok(encode("output", &Replaced { output_file })?)
}

fn failed(len: usize, error: &FileError) -> HandlerError {
    let message = format!("the output has {len} bytes, more than the platform takes, and cannot be uploaded: {error}");
    HandlerError::new(error.kind(), message)
}

/// Writes an output that is too large for the memory of a message to the job's temporary folder.
fn write<C>(job: &Job<C>, output: &impl Serialize) -> Result<PathBuf, FileError> {
    const WRITE: &str = "it cannot be written to the job's temporary folder";
    let path = job.temp_dir().map_err(FileError::local(WRITE))?.join(NAME);
    let mut file = BufWriter::new(File::create(&path).map_err(FileError::local(WRITE))?);
    serde_json::to_writer(&mut file, output).map_err(|error| FileError::local(WRITE)(error.into()))?;
    file.flush().map_err(FileError::local(WRITE))?;
    Ok(path)
}
