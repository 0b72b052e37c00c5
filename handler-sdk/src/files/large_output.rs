//! Outputs over the limit of the platform go to the bucket, and a link to them is returned.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use bytes::Bytes;
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

/// Writes the output of `job` as JSON. One over the limit is uploaded if there is a bucket, and replaced by a link.
pub(crate) fn encode_or_upload<C>(job: &Job<C>, output: &impl Serialize) -> Result<Bytes, HandlerError> {
    match Shared::of_process() {
        Ok(shared) => encode_or_upload_with(&shared, job, output),
        // Without certificates nothing can be uploaded.
        Err(_) => Ok(encode("output", output)?),
    }
}

pub(crate) fn encode_or_upload_with<C>(
    shared: &Arc<Shared>,
    job: &Job<C>,
    output: &impl Serialize,
) -> Result<Bytes, HandlerError> {
    let encoded = encode("output", output);
    let len = match &encoded {
        Ok(json) => json.len(),
        Err(EncodeError::TooLarge { len, .. }) => *len,
        Err(EncodeError::Json { .. }) => return Ok(encoded?),
    };
    if shared.settings.upload_above(job.id()).is_none_or(|limit| len as u64 <= limit) {
        return Ok(encoded?);
    }
    let failed = |error: FileError| {
        let message =
            format!("the output has {len} bytes, more than the platform takes, and cannot be uploaded: {error}");
        HandlerError::new(error.kind(), message)
    };
    let Some(bucket) = bucket(job, shared).map_err(failed)? else { return Ok(encoded?) };
    let file = match encoded {
        Ok(json) => Upload::bytes(NAME, json),
        Err(_) => Upload::file(write(job, output).map_err(failed)?),
    };
    let context = Context { running: job.running(), shared: Arc::clone(shared) };
    let uploaded = runtime::wait(async move { upload(&context, Some(&bucket), file).await }).map_err(failed)?;
    Ok(encode("output", &Replaced { output_file: uploaded })?)
}

/// Writes an output that is too large for the memory of a message to the job's temporary folder.
fn write<C>(job: &Job<C>, output: &impl Serialize) -> Result<std::path::PathBuf, FileError> {
    const WRITE: &str = "it cannot be written to the job's temporary folder";
    let path = job.temp_dir().map_err(FileError::local(WRITE))?.join(NAME);
    let mut file = BufWriter::new(File::create(&path).map_err(FileError::local(WRITE))?);
    serde_json::to_writer(&mut file, output).map_err(|error| FileError::local(WRITE)(error.into()))?;
    file.flush().map_err(FileError::local(WRITE))?;
    Ok(path)
}
