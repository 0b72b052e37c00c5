//! The outbox's way to the spool: disk I/O off the async threads, and a disk that fails does not stop deliveries.
//!
//! While the disk fails, results stay in memory and the worker takes no more jobs; it tries again until the disk is mended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::record::Record;
use super::spool::{Reason, Recovery, Spool};
use super::ticket::Ticket;
use crate::base::Retry;

/// Threads that wait for the disk at the same time: more would only queue up inside it.
const WRITERS: usize = 4;

/// A disk that takes longer for one file counts as broken; deliveries do not wait for it.
const DISK_LIMIT: Duration = Duration::from_secs(10);

/// A broken disk is tried again after about this time …
const MEND_PAUSE: Duration = Duration::from_secs(1);

/// … growing to this.
const MEND_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How the spool fares, for health and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Results on disk now.
    pub results: u64,
    /// Results that an earlier run had left. Each may have reached the queue before, so it may have been posted twice.
    pub recovered: u64,
    /// Files that were no results of this worker.
    pub set_aside: u64,
    /// Results that could not be written.
    pub failures: u64,
    /// Dead letters written down.
    pub buried: u64,
    /// Why the disk is not usable now.
    pub trouble: Option<String>,
}

/// The result in a lane's last step, and its place in the spool.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) record: Record,
    pub(super) ticket: Option<Ticket>,
}

/// Keeps results on disk. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spool: Arc<Spool>,
    always: bool,
    writers: Arc<Semaphore>,
    results: AtomicU64,
    recovered: u64,
    set_aside: u64,
    failures: AtomicU64,
    buried: AtomicU64,
    trouble: watch::Sender<Option<String>>,
    /// Delivered, but still on a disk that would not let them go.
    leftovers: Mutex<Vec<Ticket>>,
}

impl Keeper {
    pub(super) fn new(spool: Spool, always: bool, recovery: &Recovery) -> Self {
        let found = u64::try_from(recovery.results.len()).unwrap_or(u64::MAX);
        Self(Arc::new(Inner {
            spool: Arc::new(spool),
            always,
            writers: Arc::new(Semaphore::new(WRITERS)),
            results: AtomicU64::new(found),
            recovered: found,
            set_aside: recovery.set_aside,
            failures: AtomicU64::new(0),
            buried: AtomicU64::new(0),
            trouble: watch::Sender::new(None),
            leftovers: Mutex::default(),
        }))
    }

    /// Each result is to be written before it is posted.
    pub(super) fn always(&self) -> bool {
        self.0.always
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.0.spool.ticket()
    }

    pub(super) fn stats(&self) -> SpoolStats {
        let inner = &self.0;
        SpoolStats {
            results: inner.results.load(Ordering::Relaxed),
            recovered: inner.recovered,
            set_aside: inner.set_aside,
            failures: inner.failures.load(Ordering::Relaxed),
            buried: inner.buried.load(Ordering::Relaxed),
            trouble: inner.trouble.borrow().clone(),
        }
    }

    /// Writes a result down, unless it is there already or the disk is known to be broken.
    pub(super) async fn save(&self, parcel: &Parcel) {
        let Some(ticket) = parcel.ticket.clone() else { return };
        if ticket.is_written() || self.0.trouble.borrow().is_some() {
            return;
        }
        ticket.begin();
        let (record, job) = (parcel.record.clone(), parcel.record.job.clone());
        let written = self
            .work(move |inner| {
                let was = ticket.is_written();
                inner.spool.write(&ticket, &record)?;
                if !was && ticket.is_written() {
                    inner.results.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
            .await;
        match written {
            Ok(()) => tracing::debug!(%job, "a result was not accepted at once; it is on disk until it is"),
            Err(error) => {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
                self.fail(&error);
            }
        }
    }

    /// The queue has it, or nobody wants it.
    pub(super) async fn remove(&self, ticket: Ticket) {
        let again = ticket.clone();
        let removed = self.work(move |inner| inner.remove(&ticket)).await;
        if let Err(error) = removed {
            self.0.leftovers().push(again);
            self.fail(&error);
        }
    }

    /// The queue will never have it: it is kept for a person. Returns whether it is.
    pub(super) async fn bury(&self, parcel: Parcel, reason: Reason) -> bool {
        let Some(ticket) = parcel.ticket else { return false };
        let buried = self
            .work(move |inner| {
                let was = ticket.is_written();
                inner.spool.bury(&ticket, &parcel.record, &reason)?;
                if was {
                    inner.results.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(())
            })
            .await;
        match &buried {
            Ok(()) => {
                self.0.buried.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.fail(error),
        }
        buried.is_ok()
    }

    /// Runs on a thread that may wait. Goes on to its end even if the caller does not.
    async fn work(&self, job: impl FnOnce(&Inner) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let inner = Arc::clone(&self.0);
        let done = async {
            let permit = Arc::clone(&inner.writers).acquire_owned().await;
            let done = spawn_blocking(move || {
                let _permit = permit;
                job(&inner)
            });
            done.await.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("the disk did not answer within {DISK_LIMIT:?}"));
        timeout(DISK_LIMIT, done).await.unwrap_or_else(|_| Err(late()))
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

    /// While the disk is broken: keeps the worker from taking jobs, and tries the disk again. Ends with the outbox.
    pub(super) fn mend(&self, outbox: Weak<Shared>) -> impl Future<Output = ()> + Send + use<> {
        let mut trouble = self.0.trouble.subscribe();
        let inner = Arc::downgrade(&self.0);
        async move {
            while trouble.wait_for(Option::is_some).await.is_ok() {
                let Some(shared) = outbox.upgrade() else { return };
                shared.ledger.block(true);
                drop(shared);
                let mut retry = Retry::new(MEND_PAUSE, MEND_PAUSE_MAX);
                loop {
                    sleep(retry.next(None)).await;
                    let Some(keeper) = inner.upgrade().map(Keeper) else { return };
                    if keeper.work(Inner::try_again).await.is_ok() {
                        keeper.0.trouble.send_replace(None);
                        break;
                    }
                }
                let Some(shared) = outbox.upgrade() else { return };
                shared.ledger.block(false);
                tracing::info!("Results can be written to disk again.");
            }
        }
    }
}

impl Inner {
    fn remove(&self, ticket: &Ticket) -> io::Result<()> {
        let was = ticket.is_written();
        self.spool.remove(ticket)?;
        if was {
            self.results.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn try_again(&self) -> io::Result<()> {
        self.spool.probe()?;
        let mut leftovers = std::mem::take(&mut *self.leftovers());
        while let Some(ticket) = leftovers.pop() {
            if let Err(error) = self.remove(&ticket) {
                leftovers.push(ticket);
                self.leftovers().append(&mut leftovers);
                return Err(error);
            }
        }
        Ok(())
    }

    fn leftovers(&self) -> MutexGuard<'_, Vec<Ticket>> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
