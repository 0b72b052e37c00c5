//! The output of a job as JSON; with the feature `files` a large one goes to the bucket.

use bytes::Bytes;
use serde::Serialize;

use crate::error::HandlerError;
use crate::job::Job;

/// Writes the output of `job` as JSON. With the feature `files`, an output over the limit of the platform is uploaded, and a link to
/// it is the output instead.
pub(crate) fn encode_output<C>(job: &Job<C>, output: &impl Serialize) -> Result<Bytes, HandlerError> {
    #[cfg(feature = "files")]
    return crate::files::encode_or_upload(job, output);
    #[cfg(not(feature = "files"))]
    {
        let _ = job;
        Ok(crate::encode::encode("output", output)?)
    }
}
