//! The outbox's access to the spool: disk I/O runs off the async threads, and a disk that fails does not stop deliveries.
//!
//! While the disk fails, results stay in memory and the worker takes no more jobs; the disk is tried again until it works.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::held_bytes::HeldBytes;
use super::limits::{DISK_PAUSE, DISK_PAUSE_MAX, DISK_THREADS, DISK_TIMEOUT};
use super::pending::PendingResult;
use super::spool::{DeadLetterReason, Spool, SpoolEntry, Undelivered};
use super::stats::SpoolStats;
use crate::base::Retry;

/// Writes results to the spool and removes them. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct SpoolHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spool: Arc<Spool>,
    always: bool,
    threads: Arc<Semaphore>,
    results: AtomicU64,
    recovered: u64,
    set_aside: u64,
    failures: AtomicU64,
    dead_letters: AtomicU64,
    trouble: watch::Sender<Option<String>>,
    /// Delivered, but not yet removed because the disk failed.
    to_remove: Mutex<Vec<SpoolEntry>>,
}

impl SpoolHandle {
    pub(super) fn new(spool: Spool, always: bool, undelivered: &Undelivered) -> Self {
        let found = u64::try_from(undelivered.results.len()).unwrap_or(u64::MAX);
        Self(Arc::new(Inner {
            spool: Arc::new(spool),
            always,
            threads: Arc::new(Semaphore::new(DISK_THREADS)),
            results: AtomicU64::new(found),
            recovered: found,
            set_aside: undelivered.set_aside,
            failures: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            trouble: watch::Sender::new(None),
            to_remove: Mutex::default(),
        }))
    }

    /// Whether each result is to be written before it is posted.
    pub(super) fn always(&self) -> bool {
        self.0.always
    }

    /// An entry for one more result. Nothing is written yet.
    pub(super) fn new_entry(&self) -> SpoolEntry {
        self.0.spool.new_entry()
    }

    pub(super) fn stats(&self) -> SpoolStats {
        let inner = &self.0;
        SpoolStats {
            results: inner.results.load(Ordering::Relaxed),
            recovered: inner.recovered,
            set_aside: inner.set_aside,
            failures: inner.failures.load(Ordering::Relaxed),
            dead_letters: inner.dead_letters.load(Ordering::Relaxed),
            trouble: inner.trouble.borrow().clone(),
        }
    }

    /// Writes a result to disk, unless it is there already or the disk is known to be broken.
    pub(super) async fn save(&self, pending: &PendingResult) {
        let Some(entry) = pending.entry.clone() else { return };
        if entry.is_written() || self.0.trouble.borrow().is_some() {
            return;
        }
        entry.begin_write();
        let (record, job) = (pending.record.clone(), pending.record.job.clone());
        let written = self
            .work(move |inner| {
                let was = entry.is_written();
                inner.spool.write(&entry, &record)?;
                if !was && entry.is_written() {
                    inner.results.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
            .await;
        match written {
            Ok(()) => tracing::debug!(%job, "A result was not accepted at once. It stays on disk until it is."),
            Err(error) => {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
                self.fail(&error);
            }
        }
    }

    /// Removes a result that the queue has, or that nobody needs any more.
    pub(super) async fn remove(&self, entry: SpoolEntry) {
        let again = entry.clone();
        let removed = self.work(move |inner| inner.remove(&entry)).await;
        if let Err(error) = removed {
            self.0.to_remove.lock().push(again);
            self.fail(&error);
        }
    }

    /// Keeps a result that the queue refuses for good. Returns whether it is kept.
    pub(super) async fn keep_dead_letter(&self, pending: PendingResult, reason: DeadLetterReason) -> bool {
        let Some(entry) = pending.entry else { return false };
        let kept = self
            .work(move |inner| {
                let was = entry.is_written();
                inner.spool.keep_dead_letter(&entry, &pending.record, &reason)?;
                if was {
                    inner.results.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(())
            })
            .await;
        match &kept {
            Ok(()) => {
                self.0.dead_letters.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.fail(error),
        }
        kept.is_ok()
    }

    /// Runs on a thread that may wait. Goes on to its end even if the caller does not.
    async fn work(&self, job: impl FnOnce(&Inner) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let inner = Arc::clone(&self.0);
        let done = async {
            let permit = Arc::clone(&inner.threads).acquire_owned().await;
            let done = spawn_blocking(move || {
                let _permit = permit;
                job(&inner)
            });
            done.await.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        let late =
            || io::Error::new(io::ErrorKind::TimedOut, format!("the disk did not answer within {DISK_TIMEOUT:?}"));
        timeout(DISK_TIMEOUT, done).await.unwrap_or_else(|_| Err(late()))
    }

    fn fail(&self, error: &io::Error) {
        let reason =
            format!("results cannot be written to disk: {error}; free some space, or repair the disk of --spool-dir");
        let broken = self.0.trouble.send_replace(Some(reason)).is_none();
        if broken {
            tracing::error!(
                %error,
                "Results cannot be written to disk. They stay in memory and no more jobs are taken until they can."
            );
        }
    }

    /// While the disk is broken, keeps the worker from taking jobs and tries the disk again. Ends with the outbox.
    pub(super) fn retry_until_writable(&self, held_bytes: Weak<HeldBytes>) -> impl Future<Output = ()> + Send + use<> {
        let mut trouble = self.0.trouble.subscribe();
        let inner = Arc::downgrade(&self.0);
        async move {
            while trouble.wait_for(Option::is_some).await.is_ok() {
                let Some(held) = held_bytes.upgrade() else { return };
                held.set_blocked(true);
                drop(held);
                let mut retry = Retry::new(DISK_PAUSE, DISK_PAUSE_MAX);
                loop {
                    sleep(retry.next(None)).await;
                    let Some(spool) = inner.upgrade().map(SpoolHandle) else { return };
                    if spool.work(Inner::try_again).await.is_ok() {
                        spool.0.trouble.send_replace(None);
                        break;
                    }
                }
                let Some(held) = held_bytes.upgrade() else { return };
                held.set_blocked(false);
                tracing::info!("Results can be written to disk again.");
            }
        }
    }
}

impl Inner {
    fn remove(&self, entry: &SpoolEntry) -> io::Result<()> {
        let was = entry.is_written();
        self.spool.remove(entry)?;
        if was {
            self.results.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn try_again(&self) -> io::Result<()> {
        self.spool.probe()?;
        let mut entries = std::mem::take(&mut *self.to_remove.lock());
        while let Some(entry) = entries.pop() {
            if let Err(error) = self.remove(&entry) {
                entries.push(entry);
                self.to_remove.lock().append(&mut entries);
                return Err(error);
            }
        }
        Ok(())
    }
}
