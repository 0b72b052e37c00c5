//! The output of a job as JSON; with the feature `files` a large one goes to the bucket.

use serde::Serialize;

use crate::error::HandlerError;
#[cfg(feature = "files")]
pub(crate) use crate::files::Encoded;
use crate::job::Job;

/// Writes the output of `job` as JSON. With the feature `files`, an output over the limit of the platform has to be uploaded, and a link
/// to it is the output instead.
pub(crate) fn encode_output<C>(job: &Job<C>, output: &impl Serialize) -> Result<Encoded, HandlerError> {
    #[cfg(feature = "files")]
    return crate::files::encode_or_upload(job, output);
    #[cfg(not(feature = "files"))]
    {
        let _ = job;
        Ok(Encoded(crate::encode::encode("output", output)?))
    }
}

/// An output that is ready to be sent.
#[cfg(not(feature = "files"))]
#[derive(Debug)]
pub(crate) struct Encoded(bytes::Bytes);

#[cfg(not(feature = "files"))]
impl Encoded {
    /// What is sent.
    pub(crate) fn wait(self) -> Result<bytes::Bytes, HandlerError> {
        Ok(self.0)
    }

    /// As [`wait`](Self::wait), for an async handler.
    #[cfg(feature = "async")]
    pub(crate) async fn ready(self) -> Result<bytes::Bytes, HandlerError> {
        Ok(self.0)
    }

    /// Passes on what is sent.
    pub(crate) fn deliver(self, then: impl FnOnce(Result<bytes::Bytes, HandlerError>) + Send + 'static) {
        then(Ok(self.0));
    }
}
