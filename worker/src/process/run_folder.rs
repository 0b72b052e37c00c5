//! Temporary folders of handler processes.
//!
//! ```text
//! <temporary folder>/runpod-handlers-<user>/<run>/lock                 held by the worker of this run
//!                                                 <process>-<start>/   temporary folders of the jobs of one handler process
//! ```
//!
//! The folder of a handler process is removed when the process has been reaped, however it exited. A worker that is killed leaves
//! its run behind; the next worker that starts finds the lock free, kills the processes of that run and removes it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runpod_worker_core::{Incarnation, ProcessId};

use super::descendants;
use super::limits::{KILL_TIMEOUT, RUN_FOLDER_ATTEMPTS};
use crate::base::{FolderLock, LockError};

/// File whose lock says that the worker of the run is alive.
const LOCK: &str = "lock";

/// The folder of all handler processes of one run of a worker.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    /// Released when the worker exits.
    _lock: FolderLock,
}

impl RunFolder {
    /// Removes what killed workers have left, and makes a folder for this run. Blocks.
    pub(super) fn create(temporary: &Path) -> io::Result<Self> {
        let root = temporary.join(format!("runpod-handlers-{}", rustix::process::geteuid().as_raw()));
        private_folder(&root)?;
        remove_abandoned(&root);
        for _ in 0..RUN_FOLDER_ATTEMPTS {
            let path = root.join(uuid::Uuid::new_v4().simple().to_string());
            private_folder(&path)?;
            match FolderLock::acquire(&path.join(LOCK), Duration::ZERO) {
                Ok(lock) => return Ok(Self { path, _lock: lock }),
                // Another worker has just started, and has taken it for an abandoned one.
                Err(LockError::Removed | LockError::Taken) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("it is removed again and again"))
    }

    /// Makes the folder of one handler process.
    pub(super) fn for_process(&self, id: ProcessId, incarnation: Incarnation) -> io::Result<PathBuf> {
        let path = self.path.join(format!("{}-{}", id.0, incarnation.0));
        // A cleaner of the temporary folder may have removed ours.
        private_folder(&self.path)?;
        private_folder(&path)?;
        Ok(path)
    }

    /// Removes the folder, whatever is in it.
    pub(super) fn remove(&self) {
        remove(&self.path);
    }
}

/// Removes a folder, whatever is in it.
pub(super) fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "A temporary folder of a handler process cannot be removed.");
        }
        _ => {}
    }
}

/// The variable by which its folder is passed to a handler process.
pub(super) fn variable(folder: &Path) -> (OsString, OsString) {
    (descendants::FOLDER_VARIABLE.into(), folder.into())
}

fn remove_abandoned(root: &Path) {
    for run in fs::read_dir(root).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
        // A run without a lock is just being made, or is empty.
        let Ok(lock) = FolderLock::try_existing(&run.join(LOCK)) else { continue };
        tracing::info!(folder = %run.display(), "A worker was killed: what its handler processes have left is removed.");
        let left = descendants::kill_of_run(&run, KILL_TIMEOUT);
        if left > 0 {
            tracing::warn!(processes = left, "Handler processes of a killed worker do not exit.");
        }
        remove(&run);
        drop(lock);
    }
}

/// Makes a folder that only this user can enter. One that exists must be such a folder: `/tmp` is open to everybody.
fn private_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let found = fs::symlink_metadata(path)?;
    let is_private = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    if is_private { Ok(()) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is open to other users")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_removes_abandoned_runs_and_leaves_living_ones() {
        let temporary = tempfile::tempdir().unwrap();
        let living = RunFolder::create(temporary.path()).unwrap();
        let abandoned = RunFolder::create(temporary.path()).unwrap();
        let (path, job) = (abandoned.path.clone(), abandoned.for_process(ProcessId(0), Incarnation(1)).unwrap());
        fs::write(job.join("large"), "file of a job").unwrap();
        drop(abandoned);
        let own = RunFolder::create(temporary.path()).unwrap();
        assert!(!path.exists() && living.path.exists() && own.path.exists());
        own.remove();
        assert!(!own.path.exists());
    }

    #[test]
    fn a_folder_of_another_kind_is_not_trusted() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join(format!("runpod-handlers-{}", rustix::process::geteuid().as_raw()));
        std::os::unix::fs::symlink("/tmp", &root).unwrap();
        assert!(RunFolder::create(temporary.path()).is_err(), "a link");
        fs::remove_file(&root).unwrap();
        DirBuilder::new().mode(0o777).create(&root).unwrap();
        fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(RunFolder::create(temporary.path()).is_err(), "open to everybody");
    }
}
