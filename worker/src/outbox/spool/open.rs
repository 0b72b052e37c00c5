//! Opens a spool: locks its folder, reads the undelivered results in it, adopts those of other workers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;

use parking_lot::Mutex;

use super::Spool;
use super::adoption::{self, AdoptionLimits};
use super::config::{RetentionLimits, SpoolConfig, SpoolError};
use super::filesystem::{Filesystem, RealFilesystem};
use super::layout::{ASIDE, DEAD_LETTERS, LOCK, RESULTS, number};
use super::record::Origin;
use super::undelivered::Undelivered;
use crate::base::{FolderLock, LockError};
use crate::outbox::limits::{SPOOL_LOCK_ATTEMPTS, SPOOL_LOCK_PAUSE, SPOOL_LOCK_TIMEOUT};

impl Spool {
    /// Locks this worker's folder, and reads the undelivered results in it. `None` when the spool is off.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process uses it.
    pub fn open(config: &SpoolConfig) -> Result<Option<(Self, Undelivered)>, SpoolError> {
        Self::open_within(config, AdoptionLimits::default())
    }

    pub(super) fn open_within(
        config: &SpoolConfig,
        limits: AdoptionLimits,
    ) -> Result<Option<(Self, Undelivered)>, SpoolError> {
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
        let (mut spool, mut undelivered) =
            Self::start(files, &own, &config.owner, RetentionLimits::default()).map_err(failed)?;
        spool.lock = Mutex::new(Some(lock));
        spool.origin = config.origin.clone();
        adoption::adopt(&spool, folder, &config.owner, &mut undelivered, limits);
        Ok(Some((spool, undelivered)))
    }

    pub(in crate::outbox) fn start(
        files: Arc<dyn Filesystem>,
        own: &Path,
        owner: &str,
        limits: RetentionLimits,
    ) -> io::Result<(Self, Undelivered)> {
        let spool = Self {
            files,
            owner: owner.to_owned(),
            origin: Origin::default(),
            own: own.to_owned(),
            results: own.join(RESULTS),
            dead: own.join(DEAD_LETTERS),
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
        let undelivered = spool.recover()?;
        Ok((spool, undelivered))
    }
}

/// Makes and locks a folder. Another worker that adopts its results may remove it meanwhile.
fn lock_folder(files: &dyn Filesystem, own: &Path) -> Result<FolderLock, LockError> {
    for _ in 0..SPOOL_LOCK_ATTEMPTS {
        files.create_folder(own)?;
        match FolderLock::acquire(&own.join(LOCK), SPOOL_LOCK_TIMEOUT) {
            Err(LockError::Removed) => sleep(SPOOL_LOCK_PAUSE),
            other => return other,
        }
    }
    Err(LockError::Removed)
}
