//! The thread that writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::watch;

use super::load::Readers;
use super::open::BUSY_LIMIT;
use super::rows::{self, integer, key, table};
use crate::store::backing::Entry;
use crate::store::payload::Part;
use crate::store::queue::{Change, Changes, Mark};

/// Entries in one transaction. More would make the first of them wait for too long.
const MAX_BATCH: usize = 4096;

/// Free pages (4 KiB) that stay in the file, so that a steady coming and going of jobs does not move its end all the time.
const RESERVED_PAGES: i64 = 1024;

/// Free pages that are given back in one step: some milliseconds of work.
const PAGES_A_STEP: i64 = 256;

/// Pause between two such steps while there is nothing to write.
const SHRINK_PAUSE: Duration = Duration::from_millis(20);
/// Longest time between two steps under steady load.
const SHRINK_INTERVAL: Duration = Duration::from_secs(1);

/// Pause before a failed transaction is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What the writer is asked to write.
pub(super) enum Message {
    Endpoint { endpoint: u32, name: String },
    EndpointGone { endpoint: u32 },
    Entry(Entry),
}

/// How far the writer has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Everything up to here is on disk.
    pub(super) settled: Mark,
    /// Why the latest transaction failed, until one succeeds.
    pub(super) failure: Option<Arc<str>>,
}

/// What is known of the free pages of the file.
pub(super) struct FreePages {
    /// Something was deleted since the last step that left none.
    expected: bool,
    last_step: Instant,
}

impl FreePages {
    /// A file may have free pages from earlier.
    pub(super) fn unknown() -> Self {
        Self { expected: true, last_step: Instant::now() }
    }

    fn is_due(&self) -> bool {
        self.expected && self.last_step.elapsed() >= SHRINK_INTERVAL
    }
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) receiver: Receiver<Box<Message>>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) closing: Arc<AtomicBool>,
    pub(super) readers: Arc<Readers>,
    pub(super) free_pages: FreePages,
}

impl Writer {
    /// Runs until the store is dropped.
    pub(super) fn run(mut self) {
        while let Some(first) = self.next() {
            let mut batch = vec![first];
            batch.extend(self.receiver.try_iter().take(MAX_BATCH - 1));
            if !self.write(&batch) {
                return;
            }
            self.note_written(&batch);
            let settled = Mark::try_from(batch.len()).unwrap_or_default();
            self.progress.send_modify(|progress| {
                progress.settled += settled;
                progress.failure = None;
            });
            for message in &batch {
                if let Message::Entry(entry) = &**message {
                    entry.effects.iter().for_each(|effect| entry.wakers.perform(effect));
                }
            }
        }
    }

    /// The next message; `None` when the store is dropped. While there is none, and now and then beside a steady load, free
    /// pages are given back to the disk, a few at a time.
    fn next(&mut self) -> Option<Box<Message>> {
        if self.free_pages.is_due() {
            self.give_back_pages(false);
        }
        loop {
            if !self.free_pages.expected {
                return self.receiver.recv().ok();
            }
            match self.receiver.recv_timeout(SHRINK_PAUSE) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.give_back_pages(true),
            }
        }
    }

    fn give_back_pages(&mut self, is_idle: bool) {
        self.free_pages.last_step = Instant::now();
        self.free_pages.expected = shrink_a_step(&self.connection, is_idle).unwrap_or_else(|error| {
            tracing::debug!(%error, "Free pages of the data file could not be given back to the disk.");
            false
        });
    }

    /// What the file has now replaces what readers may share.
    fn note_written(&mut self, batch: &[Box<Message>]) {
        for message in batch {
            let Message::Entry(Entry { endpoint, changes, .. }) = &**message else { continue };
            for change in &changes.list {
                match change {
                    Change::Job { record, payloads } => {
                        for (part, _) in payloads {
                            self.readers.forget(*endpoint, record.number, *part);
                        }
                    }
                    Change::Gone { job } => {
                        for part in Part::ALL {
                            self.readers.forget(*endpoint, *job, part);
                        }
                        self.free_pages.expected = true;
                    }
                    Change::StreamItemsGone { .. } => self.free_pages.expected = true,
                    Change::StreamItem { .. } | Change::Batch(_) | Change::BatchGone { .. } => {}
                }
            }
        }
    }

    /// Tries until it succeeds: the queue in memory has moved on, and what follows builds upon this batch.
    fn write(&mut self, batch: &[Box<Message>]) -> bool {
        while let Err(error) = self.transact(batch) {
            tracing::error!(%error, "The data file cannot be written. Requests are refused until it can.");
            self.progress.send_modify(|progress| progress.failure = Some(error.to_string().into()));
            if self.closing.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        true
    }

    fn transact(&mut self, batch: &[Box<Message>]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for message in batch {
            match &**message {
                Message::Endpoint { endpoint, name } => {
                    let sql = "INSERT INTO endpoints (key, name) VALUES (?1, ?2)";
                    transaction.prepare_cached(sql)?.execute(params![endpoint, name])?;
                }
                Message::EndpointGone { endpoint } => {
                    transaction.prepare_cached("DELETE FROM endpoints WHERE key = ?1")?.execute([endpoint])?;
                }
                Message::Entry(entry) => apply(&transaction, entry.endpoint, &entry.changes)?,
            }
        }
        transaction.commit()
    }
}

/// Gives some free pages back to the disk; returns whether there is more to give back.
fn shrink_a_step(connection: &Connection, is_idle: bool) -> rusqlite::Result<bool> {
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    if free > RESERVED_PAGES {
        let pages = (free - RESERVED_PAGES).min(PAGES_A_STEP);
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut steps = statement.query([])?;
        while steps.next()?.is_some() {}
    }
    let is_done = free <= RESERVED_PAGES + PAGES_A_STEP;
    if is_done {
        // The file itself gets shorter when the log is copied into it. The log would be filled again at once beside a steady load.
        // Neither waits for readers.
        let checkpoint = if is_idle { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        connection.busy_timeout(Duration::ZERO)?;
        let outcome = connection.query_row(checkpoint, [], |_| Ok(()));
        connection.busy_timeout(BUSY_LIMIT)?;
        outcome?;
    }
    Ok(!is_done || !is_idle)
}

pub(super) fn apply(connection: &Connection, endpoint: u32, changes: &Changes) -> rusqlite::Result<()> {
    for change in &changes.list {
        match change {
            Change::Job { record, payloads } => {
                rows::put(connection, endpoint, record)?;
                for (part, payload) in payloads {
                    let sql = format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2)", table(*part));
                    connection.prepare_cached(&sql)?.execute(params![key(endpoint, record.number), payload.get()])?;
                }
            }
            Change::StreamItem { job, number, item } => {
                let sql = "INSERT OR REPLACE INTO chunks VALUES (?1, ?2, ?3)";
                let values = params![key(endpoint, *job), integer(*number), item.get()];
                connection.prepare_cached(sql)?.execute(values)?;
            }
            Change::StreamItemsGone { job } => delete(connection, "chunks", endpoint, *job)?,
            Change::Gone { job } => {
                for part in Part::ALL {
                    delete(connection, table(part), endpoint, *job)?;
                }
                delete(connection, "chunks", endpoint, *job)?;
                delete(connection, "jobs", endpoint, *job)?;
            }
            Change::Batch(batch) => rows::put_batch(connection, endpoint, batch)?,
            Change::BatchGone { batch } => delete(connection, "batches", endpoint, *batch)?,
        }
    }
    let counters = changes.counters;
    let sql =
        "UPDATE endpoints SET last_number = ?2, completed = ?3, failed = ?4, retried = ?5, paused = ?6 WHERE key = ?1";
    connection.prepare_cached(sql)?.execute(params![
        endpoint,
        integer(counters.last_number),
        integer(counters.completed),
        integer(counters.failed),
        integer(counters.retried),
        counters.paused,
    ])?;
    Ok(())
}

fn delete(connection: &Connection, table: &str, endpoint: u32, job: u64) -> rusqlite::Result<()> {
    connection.prepare_cached(&format!("DELETE FROM {table} WHERE key = ?1"))?.execute([key(endpoint, job)])?;
    Ok(())
}
