//! Results on disk, so that they outlive the worker.
//!
//! ```text
//! <spool folder>/<owner>/lock            held by the worker that owns the rest
//!                        results/        undelivered: 000000000017.result
//!                        dead-letters/   refused for good, kept for a person: 000000000016.result and .reason
//!                        set-aside/      files that are not results of this worker
//! ```
//!
//! A result is in the spool once [`Spool::write`] has returned: temporary file, fsync, rename, fsync of the folder. It leaves
//! by [`Spool::remove`] after the queue has it, or by [`Spool::keep_dead_letter`]. A crash between acceptance and removal leaves the
//! file behind, so that the next start posts it a second time; each such result is counted as recovered.

mod adoption;
mod config;
mod entry;
#[cfg(test)]
pub(super) mod faulty;
mod filesystem;
pub(super) mod layout;
mod open;
mod reason;
mod record;
mod recover;
mod undelivered;

use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

pub use self::config::{RetentionLimits, SpoolConfig, SpoolError};
pub use self::entry::SpoolEntry;
pub use self::filesystem::{Filesystem, FoundFile, RealFilesystem};
pub use self::reason::DeadLetterReason;
pub(super) use self::record::now_ms;
pub use self::record::{Origin, Record, RecordError};
pub use self::undelivered::Undelivered;

use self::entry::EntryState;
use self::filesystem::ignore_missing;
use self::layout::{LOCK, PROBE, REASON, RESULT, TEMPORARY};
use super::limits::SPOOL_LOCK_TIMEOUT;
use crate::base::FolderLock;

/// One worker's spool. Every method blocks on the disk.
#[derive(Debug)]
pub struct Spool {
    files: Arc<dyn Filesystem>,
    owner: String,
    origin: Origin,
    own: PathBuf,
    results: PathBuf,
    dead: PathBuf,
    aside: PathBuf,
    limits: RetentionLimits,
    next: AtomicU64,
    /// `None` in tests, whose disk is in memory.
    lock: Mutex<Option<FolderLock>>,
}

impl Spool {
    fn create_folders(&self) -> io::Result<()> {
        [&self.own, &self.results, &self.dead, &self.aside]
            .into_iter()
            .try_for_each(|folder| self.files.create_folder(folder))?;
        self.files.sync_folder(&self.own)
    }

    /// Recreates the folders after another worker has removed them because it took this one for dead. Without the lock no worker
    /// would adopt them later.
    fn restore(&self) -> io::Result<()> {
        self.create_folders()?;
        let mut lock = self.lock.lock();
        let path = self.own.join(LOCK);
        if lock.as_ref().is_some_and(|lock| !lock.is_at(&path)) {
            *lock = Some(FolderLock::acquire(&path, SPOOL_LOCK_TIMEOUT)?);
        }
        Ok(())
    }

    fn restoring(&self, act: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.restore()?;
                act()
            }
            other => other,
        }
    }

    /// The queue that its results belong to; `None` when that is not known.
    pub(super) fn queue(&self) -> Option<&str> {
        Some(self.origin.queue.as_str()).filter(|queue| !queue.is_empty())
    }

    /// An entry for one more result. Nothing is written yet.
    pub fn new_entry(&self) -> SpoolEntry {
        SpoolEntry::new(layout::numbered(self.next.fetch_add(1, Ordering::Relaxed), ""), EntryState::Unwritten)
    }

    /// Writes a result to disk. When this returns without an error, no crash and no power cut can lose it. Does nothing for a
    /// result that is there already or was removed.
    ///
    /// # Errors
    /// The error of the disk; nothing is left behind then, as far as the disk allows.
    pub fn write(&self, entry: &SpoolEntry, record: &Record) -> io::Result<()> {
        entry.begin_write();
        let mut state = entry.lock();
        if *state == EntryState::Uncertain {
            self.clear(entry)?;
            entry.set(&mut state, EntryState::Unwritten);
        }
        if *state == EntryState::Unwritten {
            let stored = self.store(&self.results, entry.stem(), record);
            entry.set(&mut state, if stored.is_ok() { EntryState::Written } else { EntryState::Uncertain });
            return stored;
        }
        Ok(())
    }

    /// Removes a result that the queue has, or that nobody needs any more.
    ///
    /// # Errors
    /// The error of the disk; the call may be repeated.
    pub fn remove(&self, entry: &SpoolEntry) -> io::Result<()> {
        let mut state = entry.lock();
        if matches!(*state, EntryState::Written | EntryState::Uncertain) {
            // Without a sync: a power cut that brings the file back costs one more post, which is counted.
            self.clear(entry)?;
        }
        entry.set(&mut state, EntryState::Closed);
        Ok(())
    }

    /// Moves a result to the dead letters, with the reason beside it.
    ///
    /// # Errors
    /// The error of the disk; the result stays where it was then. A result that was moved is kept even if the folders cannot be
    /// synced: at worst a power cut brings it back to `results/`, and the next start posts it once more.
    pub fn keep_dead_letter(&self, entry: &SpoolEntry, record: &Record, reason: &DeadLetterReason) -> io::Result<()> {
        let mut state = entry.lock();
        let stem = entry.stem();
        let note = self.dead.join(format!("{stem}{REASON}"));
        let text = serde_json::to_vec(reason).unwrap_or_default();
        if *state == EntryState::Closed {
            return Ok(());
        }
        self.note(&note, &text);
        if *state == EntryState::Written && self.move_to_dead(entry)? {
            entry.set(&mut state, EntryState::Closed);
            let synced = self.files.sync_folder(&self.dead).and_then(|()| self.files.sync_folder(&self.results));
            if let Err(error) = synced {
                tracing::warn!(%error, "Cannot sync the folder of dead letters: after a power cut this one may be posted again.");
            }
        } else {
            self.store(&self.dead, stem, record)?;
            if *state == EntryState::Uncertain {
                // What stays is posted once more at the next start, and counted.
                let _ = self.clear(entry);
            }
            entry.set(&mut state, EntryState::Closed);
        }
        self.trim(&self.dead);
        Ok(())
    }

    /// Returns whether there was something to move: another worker may have adopted it.
    fn move_to_dead(&self, entry: &SpoolEntry) -> io::Result<bool> {
        match self.files.rename(&self.result(&self.results, entry), &self.result(&self.dead, entry)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Checks that a file can be written at this moment.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn probe(&self) -> io::Result<()> {
        self.restore()?;
        let path = self.results.join(PROBE);
        ignore_missing(self.files.remove(&path))?;
        let written = self.files.write(&path, &[&[0; 4096]]);
        ignore_missing(self.files.remove(&path))?;
        written?;
        self.files.sync_folder(&self.results)
    }

    fn result(&self, folder: &Path, entry: &SpoolEntry) -> PathBuf {
        folder.join(format!("{}{RESULT}", entry.stem()))
    }

    /// Removes whatever there is of a result.
    fn clear(&self, entry: &SpoolEntry) -> io::Result<()> {
        ignore_missing(self.files.remove(&self.result(&self.results, entry)))?;
        ignore_missing(self.files.remove(&self.results.join(format!("{}{TEMPORARY}", entry.stem()))))
    }

    /// A dead letter without its note is still a dead letter.
    fn note(&self, path: &Path, text: &[u8]) {
        if let Err(error) = self.restoring(|| self.files.write(path, &[text])) {
            tracing::debug!(%error, "The reason of a dead letter could not be written.");
            let _ = self.files.remove(path);
        }
    }

    fn store(&self, folder: &Path, stem: &str, record: &Record) -> io::Result<()> {
        self.restoring(|| self.store_once(folder, stem, record))
    }

    fn store_once(&self, folder: &Path, stem: &str, record: &Record) -> io::Result<()> {
        let temporary = folder.join(format!("{stem}{TEMPORARY}"));
        let whole = folder.join(format!("{stem}{RESULT}"));
        let header = record.header(&self.owner, &self.origin);
        let parts: Vec<&[u8]> =
            iter::once(header.as_slice()).chain(record.body.parts().map(|part| &part[..])).collect();
        let stored = self
            .files
            .write(&temporary, &parts)
            .and_then(|()| self.files.rename(&temporary, &whole))
            .and_then(|()| self.files.sync_folder(folder));
        if stored.is_err() {
            // A half-written file would be set aside at the next start, a whole one posted a second time.
            let _ = self.files.remove(&temporary);
            let _ = self.files.remove(&whole);
        }
        stored
    }

    /// Drops the oldest files of a folder until it is within its bounds.
    fn trim(&self, folder: &Path) {
        let Ok(mut found) = self.files.list(folder) else { return };
        found.retain(|file| !file.name.ends_with(REASON));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let mut bytes: u64 = found.iter().map(|file| file.len).sum();
        let mut count = found.len();
        for file in found {
            if count <= self.limits.max_count && bytes <= self.limits.max_bytes {
                return;
            }
            tracing::warn!(
                file = file.name,
                bytes = file.len,
                "The spool keeps too many files. The oldest is removed. See `runpod-worker dead-letters list`."
            );
            let path = folder.join(&file.name);
            let _ = self.files.remove(&path.with_extension(&REASON[1..]));
            if self.files.remove(&path).is_err() {
                return;
            }
            bytes -= file.len;
            count -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
