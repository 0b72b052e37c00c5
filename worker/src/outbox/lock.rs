//! A lock on a folder, so that two processes never share one. The operating system releases it when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A worker that was killed may need this long to be gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// Held until dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process has it.
    Taken,
    /// The file system says no.
    Io(io::Error),
}

impl FolderLock {
    /// Takes the lock; waits a short time for its last holder to go away. Blocks the thread.
    pub(super) fn acquire(path: &Path) -> Result<Self, LockError> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = options.map_err(LockError::Io)?;
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => sleep(Duration::from_millis(50)),
                Err(TryLockError::WouldBlock) => return Err(LockError::Taken),
                Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
            }
        }
    }
}
