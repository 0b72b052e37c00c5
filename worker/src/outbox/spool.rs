//! Results on disk, so that they outlive the worker.
//!
//! ```text
//! <spool folder>/<owner>/lock            held by the worker that owns the rest
//!                        results/        undelivered: 000000000017.result
//!                        dead-letters/   refused for good, kept for a person: 000000000016.result and .reason
//!                        set-aside/      files that are no results of this worker
//! ```
//!
//! A result is in the spool once [`Spool::write`] has returned: temporary file, fsync, rename, fsync of the folder. It leaves
//! by [`Spool::remove`] after the queue has it, or by [`Spool::bury`]. A crash between acceptance and removal leaves the
//! file behind, so that the next start posts it a second time; each such result is counted as recovered.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::adoption::{self, AdoptionLimits};
use super::filesystem::{Filesystem, RealFilesystem};
use super::lock::{FolderLock, LockError};
use super::record::{Origin, Record, RecordError, now_ms};
use super::ticket::{Place, Ticket};

/// File whose lock says that the folder is in use.
pub(super) const LOCK: &str = "lock";
/// Folder of undelivered results.
pub(super) const RESULTS: &str = "results";
/// Folder of files that are no results.
pub(super) const ASIDE: &str = "set-aside";
/// Ending of a whole result.
const RESULT: &str = ".result";
/// Ending of one that is being written.
pub(super) const TEMPORARY: &str = ".tmp";
/// Ending of the note beside a dead letter.
const REASON: &str = ".reason";

/// A folder that goes away while it is being locked is made again so often …
const LOCK_ROUNDS: usize = 10;
/// … with this pause before each.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Larger files are not read: no result has this size.
pub(super) const LARGEST: u64 = 256 * 1024 * 1024;

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
    /// What is written with its results. Those that other workers of the same queue have left are adopted.
    pub origin: Origin,
}

impl SpoolConfig {
    /// This worker's own folder.
    pub fn own_folder(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(&self.owner))
    }
}

/// Bounds of what is kept for people: dead letters, and files set aside. The oldest make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepLimits {
    /// Files.
    pub max_count: usize,
    /// Their bytes together.
    pub max_bytes: u64,
}

impl Default for KeepLimits {
    fn default() -> Self {
        Self { max_count: 1000, max_bytes: 256 * 1024 * 1024 }
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
    /// The disk says no.
    #[error("cannot use the spool {path}: {error}; make it writable, or choose another --spool-dir, or `none`")]
    Io {
        /// Folder.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
}

/// What an earlier run has left.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Results to deliver, oldest first, one a job.
    pub results: Vec<(Ticket, Record)>,
    /// Files that are no results of this worker.
    pub set_aside: u64,
}

/// The note beside a dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Status code of the refusal; `None` when there was no answer.
    pub status: Option<u16>,
    /// One sentence.
    pub reason: String,
    /// When it was given up, in milliseconds since 1970.
    pub time_ms: u64,
}

impl Reason {
    /// A note of now.
    pub fn new(status: Option<u16>, reason: String) -> Self {
        Self { status, reason, time_ms: now_ms() }
    }
}

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
    limits: KeepLimits,
    next: AtomicU64,
    /// `None` on a disk in memory.
    lock: Mutex<Option<FolderLock>>,
}

impl Spool {
    /// Locks this worker's folder, and reads what an earlier run has left in it. `None` when there is to be no spool.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process uses it.
    pub fn open(config: &SpoolConfig) -> Result<Option<(Self, Recovery)>, SpoolError> {
        Self::open_within(config, AdoptionLimits::default())
    }

    pub(super) fn open_within(
        config: &SpoolConfig,
        limits: AdoptionLimits,
    ) -> Result<Option<(Self, Recovery)>, SpoolError> {
        let (Some(folder), Some(own)) = (&config.folder, config.own_folder()) else { return Ok(None) };
        let failed = |error| SpoolError::Io { path: own.clone(), error };
        // The folder of all spools may be a volume that others use as well; only what is below it must be ours alone.
        std::fs::create_dir_all(folder).map_err(failed)?;
        let files = Arc::new(RealFilesystem);
        let lock = match lock_folder(&*files, &own) {
            Ok(lock) => lock,
            Err(LockError::Taken) => return Err(SpoolError::Taken(own)),
            Err(error) => return Err(failed(error.into())),
        };
        let (mut spool, mut recovery) =
            Self::start(files, &own, &config.owner, KeepLimits::default()).map_err(failed)?;
        spool.lock = Mutex::new(Some(lock));
        spool.origin = config.origin.clone();
        adoption::adopt(&spool, folder, &config.owner, &mut recovery, limits);
        Ok(Some((spool, recovery)))
    }

    pub(super) fn start(
        files: Arc<dyn Filesystem>,
        own: &Path,
        owner: &str,
        limits: KeepLimits,
    ) -> io::Result<(Self, Recovery)> {
        let spool = Self {
            files,
            owner: owner.to_owned(),
            origin: Origin::default(),
            own: own.to_owned(),
            results: own.join(RESULTS),
            dead: own.join(super::dead_letters::FOLDER),
            aside: own.join(ASIDE),
            limits,
            next: AtomicU64::new(1),
            lock: Mutex::default(),
        };
        spool.create_folders()?;
        let mut highest = 0;
        for folder in [&spool.results, &spool.dead, &spool.aside] {
            let numbers = spool.files.list(folder)?.into_iter().filter_map(|found| number(&found.name));
            highest = numbers.max().unwrap_or(0).max(highest);
        }
        spool.next.store(highest.saturating_add(1), Ordering::Relaxed);
        let recovery = spool.recover()?;
        Ok((spool, recovery))
    }

    fn create_folders(&self) -> io::Result<()> {
        [&self.own, &self.results, &self.dead, &self.aside]
            .into_iter()
            .try_for_each(|folder| self.files.create_folder(folder))?;
        self.files.sync_folder(&self.own)
    }

    /// Makes again what another worker, which could not see that this one lives, has removed. Without its lock nobody would
    /// adopt the folder later.
    fn restore(&self) -> io::Result<()> {
        self.create_folders()?;
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.own.join(LOCK);
        if lock.as_ref().is_some_and(|lock| !lock.is_at(&path)) {
            *lock = Some(FolderLock::acquire(&path)?);
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

    /// A place for one more result. Nothing is written yet.
    pub fn ticket(&self) -> Ticket {
        Ticket::new(format!("{:012}", self.next.fetch_add(1, Ordering::Relaxed)), Place::Memory)
    }

    /// Writes a result down. When this returns without an error, no crash and no power cut can lose it. Does nothing for a
    /// result that is there already or was removed.
    ///
    /// # Errors
    /// What the disk says; nothing is left behind then, as far as the disk allows.
    pub fn write(&self, ticket: &Ticket, record: &Record) -> io::Result<()> {
        ticket.begin();
        let mut place = ticket.lock();
        if *place == Place::Unsure {
            self.clear(ticket)?;
            ticket.put(&mut place, Place::Memory);
        }
        if *place == Place::Memory {
            let stored = self.store(&self.results, ticket.stem(), record);
            ticket.put(&mut place, if stored.is_ok() { Place::Disk } else { Place::Unsure });
            return stored;
        }
        Ok(())
    }

    /// The queue has the result, or nobody wants it any more.
    ///
    /// # Errors
    /// What the disk says; the call may be repeated.
    pub fn remove(&self, ticket: &Ticket) -> io::Result<()> {
        let mut place = ticket.lock();
        if matches!(*place, Place::Disk | Place::Unsure) {
            // Without a sync: a power cut that brings the file back costs one more post, which is counted.
            self.clear(ticket)?;
        }
        ticket.put(&mut place, Place::Gone);
        Ok(())
    }

    /// Moves a result to the dead letters.
    ///
    /// # Errors
    /// What the disk says; the result stays where it was then.
    pub fn bury(&self, ticket: &Ticket, record: &Record, reason: &Reason) -> io::Result<()> {
        let mut place = ticket.lock();
        let stem = ticket.stem();
        let note = self.dead.join(format!("{stem}{REASON}"));
        let text = serde_json::to_vec(reason).unwrap_or_default();
        if *place == Place::Gone {
            return Ok(());
        }
        self.note(&note, &text);
        if *place == Place::Disk && self.move_to_dead(ticket)? {
            ticket.put(&mut place, Place::Gone);
            self.files.sync_folder(&self.dead)?;
            self.files.sync_folder(&self.results)?;
        } else {
            self.store(&self.dead, stem, record)?;
            if *place == Place::Unsure {
                // What stays is posted once more at the next start, and counted.
                let _ = self.clear(ticket);
            }
            ticket.put(&mut place, Place::Gone);
        }
        self.trim(&self.dead);
        Ok(())
    }

    /// Returns whether there was something to move: another worker may have adopted it.
    fn move_to_dead(&self, ticket: &Ticket) -> io::Result<bool> {
        match self.files.rename(&self.result(&self.results, ticket), &self.result(&self.dead, ticket)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Whether the disk takes a file at this moment.
    ///
    /// # Errors
    /// What the disk says.
    pub fn probe(&self) -> io::Result<()> {
        self.restore()?;
        let path = self.results.join("probe.tmp");
        gone(self.files.remove(&path))?;
        let written = self.files.write(&path, &[&[0; 4096]]);
        gone(self.files.remove(&path))?;
        written?;
        self.files.sync_folder(&self.results)
    }

    fn result(&self, folder: &Path, ticket: &Ticket) -> PathBuf {
        folder.join(format!("{}{RESULT}", ticket.stem()))
    }

    /// Removes whatever there is of a result.
    fn clear(&self, ticket: &Ticket) -> io::Result<()> {
        gone(self.files.remove(&self.result(&self.results, ticket)))?;
        gone(self.files.remove(&self.results.join(format!("{}{TEMPORARY}", ticket.stem()))))
    }

    /// A dead letter without its note is still a dead letter.
    fn note(&self, path: &Path, text: &[u8]) {
        if let Err(error) = self.restoring(|| self.files.write(path, &[text])) {
            tracing::debug!(%error, "the reason of a dead letter could not be written");
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
        let stored = self
            .files
            .write(&temporary, &[&header, &record.body])
            .and_then(|()| self.files.rename(&temporary, &whole))
            .and_then(|()| self.files.sync_folder(folder));
        if stored.is_err() {
            // A half-written file would be set aside at the next start, a whole one posted a second time.
            let _ = self.files.remove(&temporary);
            let _ = self.files.remove(&whole);
        }
        stored
    }

    fn recover(&self) -> io::Result<Recovery> {
        let mut found = self.files.list(&self.results)?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let mut recovery = Recovery::default();
        let mut newest: BTreeMap<String, usize> = BTreeMap::new();
        for file in found {
            let path = self.results.join(&file.name);
            let decoded = if file.name == "probe.tmp" {
                gone(self.files.remove(&path))?;
                continue;
            } else if file.len > LARGEST || number(&file.name).is_none() {
                Err(RecordError::Foreign)
            } else {
                Record::decode(self.files.read(&path)?, &self.owner)
            };
            let record = match decoded {
                Ok(record) => record,
                Err(error) => {
                    recovery.set_aside += 1;
                    tracing::warn!(file = file.name, %error, "A file in the spool cannot be delivered and is set aside.");
                    self.files.rename(&path, &self.aside.join(&file.name))?;
                    continue;
                }
            };
            newest.insert(record.job.as_str().to_owned(), recovery.results.len());
            let ticket = if file.name.ends_with(TEMPORARY) {
                self.adopt(&path, &record)
            } else {
                Ticket::new(file.name.trim_end_matches(RESULT).to_owned(), Place::Disk)
            };
            recovery.results.push((ticket, record));
        }
        if recovery.set_aside > 0 {
            self.files.sync_folder(&self.aside)?;
            self.trim(&self.aside);
        }
        self.files.sync_folder(&self.results)?;
        self.keep_newest(&mut recovery, &newest)?;
        Ok(recovery)
    }

    /// A file that is whole but has not got its name: the crash came before the rename, perhaps before the fsync, so it is
    /// written once more. If that fails, it is delivered from memory.
    fn adopt(&self, temporary: &Path, record: &Record) -> Ticket {
        let ticket = self.ticket();
        if self.write(&ticket, record).is_ok() {
            let _ = self.files.remove(temporary);
        }
        ticket
    }

    /// A job has one outcome: of several results the last one is delivered.
    fn keep_newest(&self, recovery: &mut Recovery, newest: &BTreeMap<String, usize>) -> io::Result<()> {
        let all = std::mem::take(&mut recovery.results);
        for (index, (ticket, record)) in all.into_iter().enumerate() {
            if newest.get(record.job.as_str()) == Some(&index) {
                recovery.results.push((ticket, record));
            } else {
                let reason = Reason::new(None, "a later result of the same job took its place".to_owned());
                self.bury(&ticket, &record, &reason)?;
            }
        }
        Ok(())
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
                "The spool keeps too many files: the oldest one is dropped. See `runpod-worker dead-letters list`."
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

/// Makes and locks a folder. A worker that adopts what is in it may remove it meanwhile.
fn lock_folder(files: &dyn Filesystem, own: &Path) -> Result<FolderLock, LockError> {
    for _ in 0..LOCK_ROUNDS {
        files.create_folder(own)?;
        match FolderLock::acquire(&own.join(LOCK)) {
            Err(LockError::Removed) => sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    Err(LockError::Removed)
}

/// The number in a file's name.
pub(super) fn number(name: &str) -> Option<u64> {
    let stem =
        name.strip_suffix(RESULT).or_else(|| name.strip_suffix(TEMPORARY)).or_else(|| name.strip_suffix(REASON))?;
    stem.parse().ok()
}

/// A file that is not there has been removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
