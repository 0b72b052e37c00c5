//! Finds the worker program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::FleetError;

const WORKER: &str = "runpod-worker";

/// `given`, else beside this program, else on PATH.
pub(crate) fn worker_program(given: Option<&Path>) -> Result<PathBuf, FleetError> {
    let own = std::env::current_exe().ok();
    let path = std::env::var_os("PATH");
    search(given, own.as_deref().and_then(Path::parent), path.as_deref())
}

fn search(given: Option<&Path>, beside: Option<&Path>, path: Option<&OsStr>) -> Result<PathBuf, FleetError> {
    if let Some(given) = given {
        return if given.is_file() { Ok(given.to_owned()) } else { Err(FleetError::NoSuchWorker(given.to_owned())) };
    }
    let neighbour = beside.map(|folder| folder.join(WORKER)).filter(|program| program.is_file());
    neighbour.or_else(|| on_path(OsStr::new(WORKER), path)).ok_or(FleetError::WorkerNotFound)
}

/// The program that a shell would start.
pub(super) fn on_path(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    let folders = path.map(std::env::split_paths).into_iter().flatten();
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbour_wins_over_the_path() {
        let (beside, path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(path.path().join(WORKER), "").unwrap();
        let find = || search(None, Some(beside.path()), Some(path.path().as_os_str())).unwrap();
        assert_eq!(find(), path.path().join(WORKER));
        std::fs::write(beside.path().join(WORKER), "").unwrap();
        assert_eq!(find(), beside.path().join(WORKER));
    }

    #[test]
    fn an_absent_worker_is_reported() {
        assert!(matches!(search(None, None, None), Err(FleetError::WorkerNotFound)));
        assert!(matches!(search(Some(Path::new("/no/such")), None, None), Err(FleetError::NoSuchWorker(_))));
    }
}
