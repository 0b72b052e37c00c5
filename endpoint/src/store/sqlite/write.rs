//! The thread that writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::watch;

use super::rows::{self, integer, key, table};
use crate::store::backing::{Entry, Mark};
use crate::store::payload::Part;
use crate::store::queue::{Change, Changes};

/// Entries in one transaction. More would make the first of them wait for too long.
const MAX_BATCH: usize = 4096;

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

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) receiver: Receiver<Box<Message>>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) closing: Arc<AtomicBool>,
}

impl Writer {
    /// Runs until the store is dropped.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.receiver.recv() {
            let mut batch = vec![first];
            batch.extend(self.receiver.try_iter().take(MAX_BATCH - 1));
            if !self.write(&batch) {
                return;
            }
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

fn apply(connection: &Connection, endpoint: u32, changes: &Changes) -> rusqlite::Result<()> {
    for change in &changes.list {
        match change {
            Change::Job { record, payloads } => {
                rows::put(connection, endpoint, record)?;
                for (part, payload) in payloads {
                    let sql = format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2)", table(*part));
                    connection.prepare_cached(&sql)?.execute(params![key(endpoint, record.number), payload.get()])?;
                }
            }
            Change::Chunk { job, number, item } => {
                let sql = "INSERT OR REPLACE INTO chunks VALUES (?1, ?2, ?3)";
                let values = params![key(endpoint, *job), integer(*number), item.get()];
                connection.prepare_cached(sql)?.execute(values)?;
            }
            Change::ChunksGone { job } => delete(connection, "chunks", endpoint, *job)?,
            Change::Gone { job } => {
                for part in [Part::Input, Part::S3Config, Part::Output] {
                    delete(connection, table(part), endpoint, *job)?;
                }
                delete(connection, "chunks", endpoint, *job)?;
                delete(connection, "jobs", endpoint, *job)?;
            }
        }
    }
    let counters = changes.counters;
    let sql = "UPDATE endpoints SET last_number = ?2, completed = ?3, failed = ?4, retried = ?5 WHERE key = ?1";
    connection.prepare_cached(sql)?.execute(params![
        endpoint,
        integer(counters.last_number),
        integer(counters.completed),
        integer(counters.failed),
        integer(counters.retried),
    ])?;
    Ok(())
}

fn delete(connection: &Connection, table: &str, endpoint: u32, job: u64) -> rusqlite::Result<()> {
    connection.prepare_cached(&format!("DELETE FROM {table} WHERE key = ?1"))?.execute([key(endpoint, job)])?;
    Ok(())
}
