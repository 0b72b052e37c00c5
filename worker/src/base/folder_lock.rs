//! A lock on a folder, so that two processes never use the same one. The operating system releases it when its holder exits.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::LOCK_RETRY_PAUSE;

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error("another process has locked it")]
    Taken,
    /// The folder was removed meanwhile.
    #[error("it is removed again and again")]
    Removed,
    /// The file system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<LockError> for io::Error {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Io(error) => error,
            LockError::Taken => Self::new(io::ErrorKind::ResourceBusy, error),
            LockError::Removed => Self::other(error),
        }
    }
}

impl FolderLock {
    /// Takes the lock; waits a short time for its last holder to exit. Blocks the thread.
    ///
    /// # Errors
    /// When another process still has it after `patience`, or the file cannot be used.
    pub fn acquire(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = options.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LockError::Removed,
            _ => LockError::Io(error),
        })?;
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Self::checked(file, path),
                Err(TryLockError::WouldBlock) if begin.elapsed() < patience => {
                    sleep(LOCK_RETRY_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(LockError::Taken),
                Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
            }
        }
    }

    /// Takes the lock of a folder that has one, if no process holds it.
    ///
    /// # Errors
    /// When a process holds it, there is no such file, or the file cannot be used.
    pub fn try_existing(path: &Path) -> Result<Self, LockError> {
        let file = OpenOptions::new().write(true).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LockError::Removed,
            _ => LockError::Io(error),
        })?;
        match file.try_lock() {
            Ok(()) => Self::checked(file, path),
            Err(TryLockError::WouldBlock) => Err(LockError::Taken),
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }

    /// The last holder may have removed the file; other processes then lock another file of that name.
    fn checked(file: File, path: &Path) -> Result<Self, LockError> {
        let there = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LockError::Removed),
            other => other?,
        };
        if is_same(&file.metadata()?, &there) { Ok(Self { file }) } else { Err(LockError::Removed) }
    }

    /// Whether its file is still the one at this path.
    pub fn is_at(&self, path: &Path) -> bool {
        matches!((self.file.metadata(), path.metadata()), (Ok(own), Ok(there)) if is_same(&own, &there))
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}
