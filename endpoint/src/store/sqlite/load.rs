//! Reading: everything at the start, single payloads afterwards.

use std::collections::HashMap;
use std::path::PathBuf;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};

use super::open::connect;
use super::rows::{self, key, natural, payload, split_key, table};
use super::shared::{NoMemory, SharedPayloads};
use crate::store::backing::Restored;
use crate::store::clock::Timestamp;
use crate::store::payload::{Filed, Part, Payload};
use crate::store::queue::{Counters, Queue};
use crate::store::setup::Setup;
use crate::store::views::JobView;

/// Connections kept for the next reader.
const MAX_SPARE: usize = 4;

/// Payloads from this size on are shared by their readers.
const SHARED_FROM: usize = 64 << 10;

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The file cannot be read.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// Too much of it is in memory.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// All endpoints as the file has them.
pub(super) fn restore(
    connection: &Connection,
    setup: &Setup,
    now: Timestamp,
) -> rusqlite::Result<Vec<Restored<Filed>>> {
    let mut endpoints = HashMap::new();
    let mut statement =
        connection.prepare("SELECT key, name, last_number, completed, failed, retried, paused FROM endpoints")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let number = |column| row.get::<_, i64>(column).map(natural);
        let (endpoint, name) = (row.get(0)?, row.get::<_, String>(1)?);
        let mut queue = Queue::journaled(setup.limits_of(&name));
        queue.restore_counters(Counters {
            last_number: number(2)?,
            completed: number(3)?,
            failed: number(4)?,
            retried: number(5)?,
            paused: row.get(6)?,
        });
        endpoints.insert(endpoint, Restored { endpoint, name, queue });
    }
    let mut statement = connection.prepare("SELECT * FROM batches ORDER BY key")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (endpoint, batch) = rows::get_batch(row)?;
        if let Some(endpoint) = endpoints.get_mut(&endpoint) {
            endpoint.queue.restore_batch(batch);
        }
    }
    let mut streams = restore_stream_items(connection)?;
    let mut statement = connection.prepare("SELECT * FROM jobs ORDER BY key")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (endpoint, job) = rows::get(row)?;
        let items = streams.remove(&(endpoint, job.number)).unwrap_or_default();
        if let Some(endpoint) = endpoints.get_mut(&endpoint) {
            endpoint.queue.restore(now, job, items);
        }
    }
    endpoints.values_mut().for_each(|endpoint: &mut Restored<Filed>| endpoint.queue.restored());
    Ok(endpoints.into_values().collect())
}

type StreamItems = HashMap<(u32, u64), Vec<(u64, Payload)>>;

fn restore_stream_items(connection: &Connection) -> rusqlite::Result<StreamItems> {
    let mut streams = StreamItems::new();
    let mut statement = connection.prepare("SELECT key, number, body FROM chunks ORDER BY key, number")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let items = streams.entry(split_key(row.get(0)?)).or_default();
        items.push((natural(row.get(1)?), payload(row.get(2)?)?));
    }
    Ok(streams)
}

/// Connections for reading; they do not wait for the writer.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    spare: Mutex<Vec<Connection>>,
    shared: SharedPayloads,
}

impl Readers {
    /// Results of at most `max_bytes` are in memory at once.
    pub(super) fn new(path: PathBuf, max_bytes: usize) -> Self {
        Self { path, spare: Mutex::default(), shared: SharedPayloads::new(max_bytes) }
    }

    /// The text of each payload, where it still exists.
    pub(super) fn load(&self, endpoint: u32, contents: Vec<Filed>) -> Result<Vec<Option<Payload>>, ReadError> {
        self.with_connection(|connection| {
            contents.into_iter().map(|content| self.load_one(connection, endpoint, content)).collect()
        })
    }

    /// A job as the file has it.
    pub(super) fn view(&self, endpoint: u32, job: u64) -> Result<Option<JobView<Filed>>, ReadError> {
        self.with_connection(|connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM jobs WHERE key = ?1")?;
            let found = statement.query_row([key(endpoint, job)], rows::get).optional()?;
            Ok(found.map(|(_, record)| record.map(|part, bytes| Filed::Stored { number: job, part, bytes }).view()))
        })
    }

    /// Notes that a payload in the file has changed.
    pub(super) fn forget(&self, endpoint: u32, job: u64, part: Part) {
        self.shared.forget((key(endpoint, job), part));
    }

    fn with_connection<T>(&self, read: impl FnOnce(&Connection) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let spare = self.spare.lock().pop();
        let connection = match spare {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        let found = read(&connection);
        let mut spare = self.spare.lock();
        if spare.len() < MAX_SPARE {
            spare.push(connection);
        }
        found
    }

    fn load_one(&self, connection: &Connection, endpoint: u32, content: Filed) -> Result<Option<Payload>, ReadError> {
        let Filed::Stored { number, part, bytes } = content else { return Ok(content.fresh()) };
        let key = key(endpoint, number);
        let read = || {
            let sql = format!("SELECT body FROM {} WHERE key = ?1", table(part));
            let text = connection.prepare_cached(&sql)?.query_row([key], |row| row.get(0)).optional()?;
            Ok(text.map(payload).transpose()?)
        };
        if bytes < SHARED_FROM { read() } else { self.shared.get((key, part), bytes, read) }
    }
}
