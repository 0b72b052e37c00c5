//! Results that the queue refused for good. They are kept so that a person can read them, send them again or remove them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::spool::layout::{DEAD_LETTERS, REASON, RESULT, numbered};
use super::spool::{DeadLetterReason, Filesystem, RealFilesystem, Record, RecordError, SpoolConfig};
use super::verdict::{Verdict, verdict};
use crate::queue::{PostReply, ResultSink};

/// A result that the queue refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number in this folder.
    pub id: u64,
    /// The result.
    pub record: Record,
    /// Why the queue refused it; `None` when the disk was full at the time.
    pub reason: Option<DeadLetterReason>,
}

/// Why a dead letter cannot be read, removed or sent again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// There is no dead letter of that name.
    #[error("there is no dead letter `{0}`: `runpod-worker dead-letters list` shows all")]
    Unknown(String),
    /// There are no dead letters, because there is no spool.
    #[error("the spool is off (--spool-dir none), so there are no dead letters")]
    Off,
    /// The disk refuses.
    #[error("cannot use {path}: {error}; check --spool-dir and who may read it")]
    Io {
        /// Folder or file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The file is damaged.
    #[error("{path} cannot be read: {error}")]
    Damaged {
        /// File.
        path: PathBuf,
        /// What is wrong with the file.
        error: RecordError,
    },
    /// The queue does not accept it.
    #[error("the queue does not accept it: {0}; it is kept")]
    Refused(String),
}

/// The dead letters of one worker. They can be used while the worker runs.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    files: Arc<dyn Filesystem>,
    folder: PathBuf,
    owner: String,
}

impl DeadLetters {
    /// The dead letters of the worker with this configuration.
    ///
    /// # Errors
    /// When there is no spool.
    pub fn new(config: &SpoolConfig) -> Result<Self, DeadLetterError> {
        let own = config.own_folder().ok_or(DeadLetterError::Off)?;
        Ok(Self::at(Arc::new(RealFilesystem), &own, &config.owner))
    }

    pub(super) fn at(files: Arc<dyn Filesystem>, own: &Path, owner: &str) -> Self {
        Self { files, folder: own.join(DEAD_LETTERS), owner: owner.to_owned() }
    }

    /// Their numbers, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read; one that does not exist is empty.
    pub fn ids(&self) -> Result<Vec<u64>, DeadLetterError> {
        let found = match self.files.list(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|error| DeadLetterError::Io { path: self.folder.clone(), error })?,
        };
        let mut ids: Vec<u64> = found.iter().filter_map(|file| file.name.strip_suffix(RESULT)?.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The dead letter with this number.
    ///
    /// # Errors
    /// When it does not exist or is damaged.
    pub fn get(&self, id: u64) -> Result<DeadLetter, DeadLetterError> {
        let path = self.path(id, RESULT);
        let file = self.files.read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DeadLetterError::Unknown(id.to_string()),
            _ => DeadLetterError::Io { path: path.clone(), error },
        })?;
        let record = Record::decode(file, &self.owner)
            .map_err(|error| DeadLetterError::Damaged { path: path.clone(), error })?;
        let reason = self.files.read(&self.path(id, REASON)).ok();
        Ok(DeadLetter { id, record, reason: reason.and_then(|text| serde_json::from_slice(&text).ok()) })
    }

    /// Finds one by its number or by its job; of several for one job the newest.
    ///
    /// # Errors
    /// When there is none, or the folder cannot be read.
    pub fn find(&self, name: &str) -> Result<DeadLetter, DeadLetterError> {
        let ids = self.ids()?;
        if let Some(id) = name.parse().ok().filter(|id| ids.contains(id)) {
            return self.get(id);
        }
        let found = ids.iter().rev().filter_map(|id| self.get(*id).ok()).find(|dead| dead.record.job.as_str() == name);
        found.ok_or_else(|| DeadLetterError::Unknown(name.to_owned()))
    }

    /// Removes one.
    ///
    /// # Errors
    /// When it does not exist or the disk refuses.
    pub fn discard(&self, id: u64) -> Result<(), DeadLetterError> {
        let path = self.path(id, RESULT);
        self.files.remove(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DeadLetterError::Unknown(id.to_string()),
            _ => DeadLetterError::Io { path: path.clone(), error },
        })?;
        let _ = self.files.remove(&self.path(id, REASON));
        let synced = self.files.sync_folder(&self.folder);
        synced.map_err(|error| DeadLetterError::Io { path: self.folder.clone(), error })
    }

    /// Posts one, once, and removes it when the queue accepts it.
    ///
    /// # Errors
    /// When the queue does not accept it; it is kept then.
    pub async fn resend<S: ResultSink>(&self, dead: &DeadLetter, sink: &S) -> Result<(), DeadLetterError> {
        let reply = dead.record.post(sink).await;
        match (verdict(reply.clone()), reply) {
            (Verdict::Accepted, _) => self.discard(dead.id),
            (Verdict::Later { error, .. } | Verdict::Unauthorized { error }, _) => {
                Err(DeadLetterError::Refused(error.to_string()))
            }
            (Verdict::Refused { .. } | Verdict::Dead { .. }, PostReply::Status { code, .. }) => {
                Err(DeadLetterError::Refused(format!("it answered {code}")))
            }
            (Verdict::Refused { .. } | Verdict::Dead { .. }, _) => {
                Err(DeadLetterError::Refused("there is no job-done URL".to_owned()))
            }
        }
    }

    fn path(&self, id: u64, ending: &str) -> PathBuf {
        self.folder.join(numbered(id, ending))
    }
}
