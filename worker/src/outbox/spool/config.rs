//! Settings and limits of the spool, and why it cannot be opened.

use std::io;
use std::path::PathBuf;

use super::record::Origin;
use crate::outbox::limits::{KEPT_BYTES, KEPT_FILES};

/// Where results are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Folder of all spools; `None` keeps results in memory only.
    pub folder: Option<PathBuf>,
    /// The folder was asked for, so that a worker that cannot use it must not start.
    pub required: bool,
    /// Write each result before it is posted, and not only those that are not accepted at once.
    pub always: bool,
    /// Name of this worker's own folder below `folder`.
    pub owner: String,
    /// Written with each result. Undelivered results of other workers of the same queue are adopted.
    pub origin: Origin,
}

impl SpoolConfig {
    /// This worker's own folder.
    pub fn own_folder(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(&self.owner))
    }
}

/// Bounds of what is kept for people: dead letters, and files set aside. The oldest are removed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Files.
    pub max_count: usize,
    /// Their bytes together.
    pub max_bytes: u64,
}

impl Default for RetentionLimits {
    fn default() -> Self {
        Self { max_count: KEPT_FILES, max_bytes: KEPT_BYTES }
    }
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another process uses it.
    #[error(
        "the spool {0} is in use by another worker: give each worker its own RUNPOD_POD_ID, or its own --spool-dir, or use \
         --spool-dir none"
    )]
    Taken(PathBuf),
    /// The disk refuses.
    #[error("cannot use the spool {path}: {error}; make it writable, or choose another --spool-dir, or `none`")]
    Io {
        /// Folder.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
}
