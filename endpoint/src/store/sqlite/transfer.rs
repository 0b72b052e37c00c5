//! A data file as one end of a move: read from its first job to its last, or written anew.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};

use super::open::{self, Lock, OpenError, beside};
use super::rows::{self, key, natural, table};
use super::{file_in, write};
use crate::store::moved::{MovedEndpoint, MovedJob, STEP_BYTES, STEP_JOBS};
use crate::store::payload::{Part, Payload};
use crate::store::queue::{BatchRecord, Change, Changes, Counters};

/// A file that nothing else uses meanwhile.
pub(crate) struct FileSource {
    connection: Connection,
    path: PathBuf,
    _lock: Lock,
}

impl FileSource {
    /// # Errors
    /// When there is no such file, or it cannot be used.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let path = file_in(path);
        // Opening it would create it.
        if !path.exists() {
            return Err(OpenError::Missing(path));
        }
        let (connection, lock) = open::open(&path)?;
        Ok(Self { connection, path, _lock: lock })
    }

    /// How many jobs there are.
    pub(crate) fn job_count(&self) -> Result<u64, OpenError> {
        let count = self.connection.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0));
        count.map(natural).map_err(|error| self.explain(&error))
    }

    /// The endpoints with their keys.
    pub(crate) fn endpoints(&self) -> Result<Vec<(u32, MovedEndpoint)>, OpenError> {
        let read = || -> rusqlite::Result<Vec<_>> {
            let sql = "SELECT key, name, last_number, completed, failed, retried, paused FROM endpoints ORDER BY key";
            let mut statement = self.connection.prepare(sql)?;
            let endpoints = statement.query_map([], |row| {
                let number = |column| row.get::<_, i64>(column).map(natural);
                let counters = Counters {
                    last_number: number(2)?,
                    completed: number(3)?,
                    failed: number(4)?,
                    retried: number(5)?,
                    paused: row.get(6)?,
                };
                let key = row.get(0)?;
                Ok((key, MovedEndpoint { name: row.get(1)?, counters, batches: self.batches(key)? }))
            })?;
            endpoints.collect()
        };
        read().map_err(|error| self.explain(&error))
    }

    fn batches(&self, endpoint: u32) -> rusqlite::Result<Vec<BatchRecord>> {
        let sql = "SELECT * FROM batches WHERE key >= ?1 AND key < ?2 ORDER BY key";
        let mut statement = self.connection.prepare(sql)?;
        let bounds = [key(endpoint, 0), key(endpoint + 1, 0)];
        statement.query_map(bounds, |row| rows::get_batch(row).map(|(_, batch)| batch))?.collect()
    }

    /// The next jobs of an endpoint after one, in the order of their numbers.
    pub(crate) fn jobs(&self, endpoint: u32, after: u64) -> Result<Vec<MovedJob>, OpenError> {
        self.read_jobs(endpoint, after).map_err(|error| self.explain(&error))
    }

    fn read_jobs(&self, endpoint: u32, after: u64) -> rusqlite::Result<Vec<MovedJob>> {
        let sql = "SELECT * FROM jobs WHERE key > ?1 AND key < ?2 ORDER BY key LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query(params![key(endpoint, after), key(endpoint + 1, 0), STEP_JOBS])?;
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            let (_, record) = rows::get(row)?;
            bytes += MovedJob::bytes(&record);
            if bytes > STEP_BYTES && !jobs.is_empty() {
                break;
            }
            let mut payloads = Vec::new();
            for part in Part::ALL {
                payloads.extend(self.payload(endpoint, record.number, part)?.map(|text| (part, text)));
            }
            let items = self.items(endpoint, record.number)?;
            jobs.push(MovedJob { record, payloads, items });
        }
        Ok(jobs)
    }

    fn payload(&self, endpoint: u32, number: u64, part: Part) -> rusqlite::Result<Option<Payload>> {
        let sql = format!("SELECT body FROM {} WHERE key = ?1", table(part));
        let mut statement = self.connection.prepare_cached(&sql)?;
        let text = statement.query_row([key(endpoint, number)], |row| row.get(0)).optional()?;
        text.map(rows::payload).transpose()
    }

    fn items(&self, endpoint: u32, number: u64) -> rusqlite::Result<Vec<(u64, Payload)>> {
        let sql = "SELECT number, body FROM chunks WHERE key = ?1 ORDER BY number";
        let mut statement = self.connection.prepare_cached(sql)?;
        let items = statement
            .query_map([key(endpoint, number)], |row| Ok((natural(row.get(0)?), rows::payload(row.get(1)?)?)))?;
        items.collect()
    }

    fn explain(&self, error: &rusqlite::Error) -> OpenError {
        open::explain(&self.path, error)
    }
}

/// A file that is written under another name first, and appears when it is complete.
pub(crate) struct FileTarget {
    connection: Connection,
    path: PathBuf,
    part: Unfinished,
    /// The endpoint that was added last.
    endpoint: u32,
    counters: Counters,
    _lock: File,
}

impl FileTarget {
    /// # Errors
    /// When there is such a file already, or none can be written.
    pub(crate) fn create(path: &Path) -> Result<Self, OpenError> {
        let path = file_in(path);
        if path.exists() {
            return Err(OpenError::Exists(path));
        }
        let part = Unfinished(beside(&path, ".part"));
        let (connection, lock) = open::create(&part.0)?;
        Ok(Self { connection, path, part, endpoint: 0, counters: Counters::default(), _lock: lock })
    }

    /// Adds an endpoint, which is then known by this key. Its jobs follow before the next one.
    pub(crate) fn add_endpoint(&mut self, endpoint: u32, moved: &MovedEndpoint) -> Result<(), OpenError> {
        let sql = "INSERT INTO endpoints (key, name) VALUES (?1, ?2)";
        let added = self.connection.execute(sql, params![endpoint, moved.name]);
        added.map_err(|error| open::explain(&self.path, &error))?;
        (self.endpoint, self.counters) = (endpoint, moved.counters);
        self.apply(moved.batches.iter().cloned().map(Change::Batch).collect())
    }

    /// Adds jobs of the endpoint that was added last.
    pub(crate) fn add_jobs(&mut self, jobs: Vec<MovedJob>) -> Result<(), OpenError> {
        let mut list = Vec::with_capacity(jobs.len());
        for MovedJob { record, payloads, items } in jobs {
            let job = record.number;
            list.push(Change::Job { record: Box::new(record), payloads });
            list.extend(items.into_iter().map(|(number, item)| Change::StreamItem { job, number, item }));
        }
        self.apply(list)
    }

    fn apply(&mut self, list: Vec<Change>) -> Result<(), OpenError> {
        let changes = Changes { counters: self.counters, list };
        let mut apply = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            write::apply(&transaction, self.endpoint, &changes)?;
            transaction.commit()
        };
        apply().map_err(|error| open::explain(&self.path, &error))
    }

    /// Gives the file its name once all of it is on disk.
    pub(crate) fn finish(self) -> Result<(), OpenError> {
        let Self { connection, path, part, _lock, .. } = self;
        let unusable = |error: std::io::Error| OpenError::Unusable(path.clone(), error.to_string());
        // Closing it puts everything into the one file.
        connection.close().map_err(|(_, error)| open::explain(&path, &error))?;
        File::open(&part.0).and_then(|file| file.sync_all()).map_err(unusable)?;
        // Unlike a renaming, this fails when there is such a file by now.
        std::fs::hard_link(&part.0, &path).map_err(|_| OpenError::Exists(path.clone()))?;
        if let Some(folder) = path.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(unusable)?;
        }
        Ok(())
    }
}

/// The name of a file that is not complete. Nothing is left of it, unless the process is killed; then the next one removes it.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        for ending in ["", "-wal", "-shm", ".lock"] {
            let _ = std::fs::remove_file(beside(&self.0, ending));
        }
    }
}
