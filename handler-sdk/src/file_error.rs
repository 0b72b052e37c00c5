//! Why a file could not be fetched or uploaded.

use std::io;
use std::time::Duration;

use runpod_handler_protocol::ErrorKind;

use crate::stopped::Stopped;

/// Why a file could not be fetched or uploaded. The texts name the host of a URL at most, never its path, its query or a key: these
/// may hold secrets.
///
/// `?` turns it into a [`HandlerError`](crate::HandlerError) of the right kind: a file that cannot be fetched is the caller's mistake
/// ([`ErrorKind::Validation`]), and so is the bucket that a job names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The job must end.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The text is neither a URL that can be fetched nor data.
    #[error("expected an http:// or https:// URL, a data: URL or base64{0}")]
    Form(&'static str),
    /// The URL, or one that it redirects to, leads to a private address.
    #[error(
        "{host} has no public address, and files are fetched from public addresses only; the operator of the worker can allow \
         private ones with RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS"
    )]
    PrivateAddress {
        /// Host of the URL.
        host: String,
    },
    /// The file is over the limit.
    #[error("the file is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Most bytes that a file may have.
        limit: u64,
    },
    /// The download takes too long.
    #[error("the download from {host} was given up: it was not complete after {limit:?}")]
    TooSlow {
        /// Host of the URL.
        host: String,
        /// The time limit of the whole download.
        limit: Duration,
    },
    /// The host answered with an error.
    #[error("{host} answered {status} to the request for the file")]
    Status {
        /// Host of the URL.
        host: String,
        /// HTTP status.
        status: u16,
    },
    /// The URL redirects too often, or to nothing that can be requested.
    #[error("{host} redirects too often, or to something that is not an http:// or https:// URL")]
    Redirects {
        /// Host of the last URL.
        host: String,
    },
    /// The host cannot be reached, or the connection broke.
    #[error("the file cannot be fetched from {host}: {cause}")]
    Unreachable {
        /// Host of the URL.
        host: String,
        /// The error of the connection.
        cause: String,
    },
    /// The settings of the worker's bucket are incomplete.
    #[error("{0}")]
    BucketSettings(String),
    /// The job's `s3Config` is not valid.
    #[error("{0}")]
    JobBucket(String),
    /// The bucket cannot be reached, or refused the upload.
    #[error("the upload to the bucket {bucket:?} at {host} failed: {cause}")]
    Upload {
        /// Name of the bucket.
        bucket: String,
        /// Host of the storage.
        host: String,
        /// What went wrong.
        cause: String,
        /// The bucket is the one that the job names in `s3Config`.
        of_job: bool,
    },
    /// A file on this machine cannot be read or written.
    #[error("{what}: {source}")]
    Local {
        /// What was attempted.
        what: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// HTTP requests are impossible on this machine, for example because it has no certificates.
    #[error("files cannot be transferred on this machine: {0}")]
    Machine(String),
}

impl FileError {
    /// Who is to blame: the caller, the operator, or the one who stopped the job.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Stopped(stopped) => stopped.kind(),
            Self::Form(_)
            | Self::PrivateAddress { .. }
            | Self::TooLarge { .. }
            | Self::TooSlow { .. }
            | Self::Status { .. }
            | Self::Redirects { .. }
            | Self::Unreachable { .. }
            | Self::JobBucket(_)
            | Self::Upload { of_job: true, .. } => ErrorKind::Validation,
            Self::BucketSettings(_) | Self::Upload { .. } | Self::Local { .. } | Self::Machine(_) => {
                ErrorKind::InferenceError
            }
        }
    }

    pub(crate) fn local(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Local { what, source }
    }
}
