//! Notices that a handler program was built anew.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::program::on_path;

/// How often the file is looked at. A new one counts once two looks have found it the same: a linker writes for a while.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// A program's file under watch. Each clone notices each new build once.
#[derive(Debug, Clone)]
pub(crate) struct Rebuilds {
    path: PathBuf,
    builds: watch::Receiver<u64>,
}

/// What tells one build from another: device, inode, length, and time of the last change.
type Stamp = (u64, u64, u64, i64, i64);

impl Rebuilds {
    /// Watches the program as it is named on a command line, until the last clone is dropped. `None` when there is none: a name
    /// that is wrong from the start is a mistake, which the worker reports.
    pub(crate) fn watch(program: &OsStr) -> Option<Self> {
        let path = match Path::new(program).components().count() {
            1 if !program.to_string_lossy().contains('/') => on_path(program, std::env::var_os("PATH").as_deref())?,
            _ => PathBuf::from(program),
        };
        stamp(&path)?;
        let (sender, builds) = watch::channel(0);
        tokio::spawn(look(path.clone(), sender));
        Some(Self { path, builds })
    }

    /// Builds until now are old.
    pub(crate) fn catch_up(&mut self) {
        self.builds.mark_unchanged();
    }

    /// Returns when there is a newer build.
    pub(crate) async fn next(&mut self) {
        if self.builds.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is no program at the moment, as while it is linked.
    pub(crate) fn is_missing(&self) -> bool {
        stamp(&self.path).is_none()
    }
}

async fn look(path: PathBuf, builds: watch::Sender<u64>) {
    let mut running = stamp(&path);
    let mut last = running;
    while !builds.is_closed() {
        sleep(LOOK_INTERVAL).await;
        let now = stamp(&path);
        if now.is_some() && now == last && now != running {
            running = now;
            builds.send_modify(|build| *build += 1);
        }
        last = now;
    }
}

/// `None` while there is no program that can be started.
fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok().filter(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)?;
    Some((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn build(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_new_build_is_noticed_once_and_a_missing_program_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handler");
        build(&path, "1");
        let mut rebuilds = Rebuilds::watch(path.as_os_str()).unwrap();
        assert!(timeout(LONG, rebuilds.next()).await.is_err(), "nothing was built");
        fs::remove_file(&path).unwrap();
        assert!(rebuilds.is_missing() && timeout(LONG, rebuilds.next()).await.is_err());
        build(&path, "22");
        let mut other = rebuilds.clone();
        assert!(timeout(LONG, rebuilds.next()).await.is_ok() && timeout(LONG, other.next()).await.is_ok());
        assert!(timeout(LONG, rebuilds.next()).await.is_err(), "one build counts once");
        build(&path, "333");
        other.catch_up();
        assert!(timeout(LONG, other.next()).await.is_ok(), "it was not noticed yet");
    }
}
