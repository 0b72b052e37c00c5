//! Adopts undelivered results of other workers below the same folder. A worker that is replaced on a platform has a new id each
//! time, so the results that its predecessor could not deliver lie on their shared volume under a name that is not used again.
//!
//! A folder that no process has locked is locked, and each of its results that belongs to this worker's queue is written to
//! this worker's own folder before it is removed there. So a crash at any moment leaves at least one copy, and of two workers
//! that start at the same time one adopts. Results are posted under the id of the worker that ran the job. Dead letters and
//! files set aside are for people and stay where they are; an empty folder is removed.
//!
//! A file system that does not show locks to other machines makes a living worker look like a dead one. Its results are
//! then posted twice, and it makes its folder again, with its lock.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Spool;
use super::filesystem::{Filesystem as _, FoundFile, RealFilesystem};
use super::layout::{ASIDE, DEAD_LETTERS, LOCK, RESULTS, TEMPORARY, number};
use super::reason::DeadLetterReason;
use super::record::{Record, RecordError, read_head};
use super::undelivered::Undelivered;
use crate::base::{FolderLock, LockError};
use crate::outbox::limits::{ADOPTION_BYTES, ADOPTION_RESULTS, ADOPTION_TIME, SPOOL_FILE_MAX};

/// What one start adopts. The rest is left to the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdoptionLimits {
    /// After this time no further file is read.
    pub(super) time: Duration,
    pub(super) results: usize,
    pub(super) bytes: u64,
}

impl Default for AdoptionLimits {
    fn default() -> Self {
        Self { time: ADOPTION_TIME, results: ADOPTION_RESULTS, bytes: ADOPTION_BYTES }
    }
}

/// What is left of these limits.
struct Budget {
    until: Instant,
    results: usize,
    bytes: u64,
    untouched: bool,
}

impl Budget {
    fn new(limits: AdoptionLimits) -> Self {
        let AdoptionLimits { time, results, bytes } = limits;
        Self { until: Instant::now() + time, results, bytes, untouched: true }
    }

    fn is_over(&self) -> bool {
        self.results == 0 || Instant::now() >= self.until
    }

    /// The first result is taken whatever its size: a later start would have no more room for it.
    fn takes(&mut self, file: &FoundFile) -> bool {
        let takes = self.untouched || file.len <= self.bytes;
        if takes {
            self.untouched = false;
            (self.results, self.bytes) = (self.results - 1, self.bytes.saturating_sub(file.len));
        }
        takes
    }
}

/// Adopts what is found below `root` beside the folder `own`. What cannot be adopted is logged and left.
pub(super) fn adopt(spool: &Spool, root: &Path, own: &str, undelivered: &mut Undelivered, limits: AdoptionLimits) {
    let Some(queue) = spool.queue() else { return };
    let Ok(entries) = fs::read_dir(root) else { return };
    let mut adoption = Adoption { spool, queue, undelivered, budget: Budget::new(limits), nameless: 0, example: None };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| name != own);
    for owner in names {
        if adoption.budget.is_over() {
            tracing::info!(
                "There are more undelivered results of other workers than one start adopts. The next start adopts more."
            );
            break;
        }
        match adoption.folder(&root.join(&owner), &owner) {
            Ok(0) => {}
            Ok(results) => {
                tracing::info!(worker = owner, results, "Undelivered results of another worker are adopted.");
            }
            Err(error) => {
                tracing::warn!(worker = owner, %error, "Undelivered results of another worker cannot be adopted.");
            }
        }
    }
    if let Some(folder) = adoption.example {
        tracing::warn!(
            results = adoption.nameless,
            folder = %folder.display(),
            "Undelivered results of an earlier release do not name their queue and are not adopted. To deliver them, start a \
             worker of their queue once with the name of the folder as RUNPOD_POD_ID."
        );
    }
}

struct Adoption<'a> {
    spool: &'a Spool,
    queue: &'a str,
    undelivered: &'a mut Undelivered,
    budget: Budget,
    /// Results of no known queue, and one folder of such.
    nameless: usize,
    example: Option<PathBuf>,
}

impl Adoption<'_> {
    /// Returns how many results were adopted.
    fn folder(&mut self, folder: &Path, owner: &str) -> io::Result<usize> {
        let found = fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            return Ok(0);
        }
        let _lock = match FolderLock::try_existing(&folder.join(LOCK)) {
            Ok(lock) => lock,
            // In use, or not a spool.
            Err(LockError::Taken | LockError::Removed) => return Ok(0),
            Err(LockError::Io(error)) => return Err(error),
        };
        let results = folder.join(RESULTS);
        let mut files = match RealFilesystem.list(&results) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        files.retain(|file| number(&file.name).is_some() && file.len <= SPOOL_FILE_MAX);
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let before = self.nameless;
        let mut adopted = 0;
        for file in files {
            if self.budget.is_over() {
                break;
            }
            match self.file(&results.join(&file.name), &file, owner) {
                // Its worker still runs, and has delivered it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => adopted += usize::from(other?),
            }
        }
        if self.nameless > before {
            self.example.get_or_insert_with(|| folder.to_owned());
        }
        remove_if_empty(folder);
        Ok(adopted)
    }

    /// Returns whether the result was adopted. One that does not fit, or belongs to another queue, is not read to its end.
    fn file(&mut self, path: &Path, file: &FoundFile, owner: &str) -> io::Result<bool> {
        let read = match Record::origin_of(&read_head(path)?, owner) {
            Ok(origin) if origin.queue.is_empty() => {
                self.nameless += 1;
                return Ok(false);
            }
            Ok(origin) if origin.queue != self.queue || !self.budget.takes(file) => return Ok(false),
            Ok(_) => Record::decode(RealFilesystem.read(path)?, owner),
            Err(error) => Err(error),
        };
        match read {
            Ok(record) => {
                take_in(self.spool, record, self.undelivered)?;
                RealFilesystem.remove(path)?;
                Ok(true)
            }
            // The crash came before it was whole, so the result was never said to be safe.
            Err(RecordError::Torn) if file.name.ends_with(TEMPORARY) => RealFilesystem.remove(path).map(|()| false),
            Err(_) => Ok(false),
        }
    }
}

fn take_in(spool: &Spool, record: Record, undelivered: &mut Undelivered) -> io::Result<()> {
    let entry = spool.new_entry();
    if undelivered.results.iter().any(|(_, known)| known.job == record.job) {
        let reason = DeadLetterReason::new(None, "another result of the same job was found as well".to_owned());
        return spool.keep_dead_letter(&entry, &record, &reason);
    }
    spool.write(&entry, &record)?;
    undelivered.results.push((entry, record));
    Ok(())
}

/// A folder with something in it stays whole: if its worker still runs, it writes there. The lock is held meanwhile; a process that
/// waits for it notices that the file was removed.
fn remove_if_empty(folder: &Path) {
    let parts = [RESULTS, DEAD_LETTERS, ASIDE].map(|part| folder.join(part));
    let is_empty = |part: &PathBuf| match fs::read_dir(part) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let is_removed = |part: &PathBuf| match fs::remove_dir(part) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let removed = parts.iter().all(is_empty) && parts.iter().all(is_removed);
    if removed && fs::remove_file(folder.join(LOCK)).is_ok() {
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests;
