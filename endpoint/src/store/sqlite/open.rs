//! Opening the file: who may use it, whether it is ours, its tables.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Marks the file as ours (`RPEP`).
const APPLICATION_ID: i32 = 0x5250_4550;

/// Raised by one with each change of the tables.
const FORMAT: i32 = 7;

/// Statements that turn a file of format 1, 2 … into one of the next format. Format 1 stored the platform's default timeout
/// as if each job had set it.
const UPGRADES: [&str; 6] = [
    "ALTER TABLE jobs ADD COLUMN cost TEXT; \
    UPDATE jobs SET execution_timeout = 0 WHERE execution_timeout = 600000;",
    "ALTER TABLE jobs ADD COLUMN webhook_given_up INTEGER; ALTER TABLE jobs ADD COLUMN webhook_error TEXT; \
    ALTER TABLE endpoints ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;",
    "ALTER TABLE jobs ADD COLUMN batch TEXT; ALTER TABLE jobs ADD COLUMN ttl INTEGER; \
    CREATE TABLE batches (key INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT, state TEXT NOT NULL, created INTEGER NOT NULL, \
    expires INTEGER) STRICT;",
    "ALTER TABLE jobs ADD COLUMN far_id TEXT;",
    "ALTER TABLE jobs ADD COLUMN idempotency_key BLOB; ALTER TABLE jobs ADD COLUMN body_digest BLOB; \
    ALTER TABLE jobs ADD COLUMN share TEXT;",
    "ALTER TABLE jobs ADD COLUMN handovers INTEGER NOT NULL DEFAULT 0; ALTER TABLE jobs ADD COLUMN handover_since INTEGER; \
    ALTER TABLE jobs ADD COLUMN far_cancel TEXT;",
];

/// How long a statement waits for a lock of another program, such as a backup.
pub(super) const BUSY_LIMIT: Duration = Duration::from_secs(1);

/// Bytes in use of the largest file that is rebuilt at the start: some seconds of work.
const MAX_REBUILT: i64 = 1 << 30;

/// Why a data file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No folder to create it in.
    #[error("--data {}: the folder does not exist; create it or choose another path", .0.display())]
    NoFolder(PathBuf),
    /// Nothing to read.
    #[error("--data {}: there is no such file; name a data file of runpod-endpoint", .0.display())]
    Missing(PathBuf),
    /// Something is there that would be overwritten.
    #[error("--data {}: the file exists already; choose another path, or move it away", .0.display())]
    Exists(PathBuf),
    /// Locked.
    #[error("--data {}: another process uses this file; stop it or choose another path", .0.display())]
    InUse(PathBuf),
    /// It was used under another name and not closed.
    #[error(
        "--data {}: this file was last used as {name}, and its newest changes are in {name}-wal; start with --data {name}",
        path.display(), name = other.display()
    )]
    OtherName {
        /// The name that was given.
        path: PathBuf,
        /// The name to use.
        other: PathBuf,
    },
    /// Something else.
    #[error("--data {}: this is not a data file of runpod-endpoint, or its start is damaged; choose another path, or restore the file from a backup", .0.display())]
    Foreign(PathBuf),
    /// Written by a later version.
    #[error("--data {}: written by a newer runpod-endpoint (format {found}, this one knows {FORMAT}); upgrade runpod-endpoint or choose another path", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i32,
    },
    /// Its content contradicts itself.
    #[error("--data {}: the file is damaged ({reason}); restore it from a backup, or move it away to start empty", .0.display(), reason = .1)]
    Damaged(PathBuf, String),
    /// No right to write.
    #[error("--data {}: cannot write here ({reason}); make the file and its folder writable or choose another path", .0.display(), reason = .1)]
    ReadOnly(PathBuf, String),
    /// Anything else.
    #[error("--data {}: cannot use this file ({reason}); check the disk or choose another path", .0.display(), reason = .1)]
    Unusable(PathBuf, String),
}

/// Keeps other processes away for as long as it exists.
pub(super) struct Lock {
    /// The file itself, whatever name it was opened by.
    _file: File,
    /// A file beside it, which is what earlier versions lock.
    _beside: File,
}

/// The connection that writes, and the lock that keeps other processes away.
pub(super) fn open(path: &Path) -> Result<(Connection, Lock), OpenError> {
    let beside = locked(private_file(&beside(path, ".lock"), path)?, path)?;
    // SQLite would create it readable for everyone; jobs may hold secrets.
    let file = locked(private_file(path, path)?, path)?;
    if let Some(other) = name_with_changes(&file, path) {
        return Err(OpenError::OtherName { path: path.to_owned(), other });
    }
    let connection = prepare(path).map_err(|error| explain_problem(path, error))?;
    Ok((connection, Lock { _file: file, _beside: beside }))
}

/// A connection to a file that is written anew, and the lock that keeps others from doing so. What an earlier try has left is removed. Not
/// every change is on disk before the file is complete.
pub(super) fn create(path: &Path) -> Result<(Connection, File), OpenError> {
    let lock = locked(private_file(&beside(path, ".lock"), path)?, path)?;
    for name in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(OpenError::ReadOnly(path.to_owned(), error.to_string()));
            }
            _ => {}
        }
    }
    drop(private_file(path, path)?);
    let prepared = prepare(path).and_then(|connection| {
        connection.pragma_update(None, "synchronous", "OFF")?;
        Ok(connection)
    });
    let connection = prepared.map_err(|error| explain_problem(path, error))?;
    Ok((connection, lock))
}

/// A name that begins with that of the file.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Locks the file as such, and not its name: links and mounts lead to the same lock.
fn locked(file: File, data: &Path) -> Result<File, OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(data.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::Unusable(data.to_owned(), error.to_string())),
    }
}

/// Another name of the file (a hard link beside it) under which it was used last and not closed. SQLite keeps the newest
/// changes in a file beside that name; under this one they would be missing.
fn name_with_changes(file: &File, path: &Path) -> Option<PathBuf> {
    let metadata = file.metadata().ok().filter(|metadata| metadata.nlink() > 1)?;
    let path = path.canonicalize().ok()?;
    let names = std::fs::read_dir(path.parent()?).ok()?.flatten().map(|entry| entry.path());
    let is_other = |name: &PathBuf| {
        let same = |found: std::fs::Metadata| (found.dev(), found.ino()) == (metadata.dev(), metadata.ino());
        *name != path && std::fs::symlink_metadata(name).is_ok_and(same)
    };
    let has_changes = |name: &PathBuf| std::fs::metadata(beside(name, "-wal")).is_ok_and(|log| log.len() > 0);
    names.filter(is_other).find(has_changes)
}

fn private_file(path: &Path, data: &Path) -> Result<File, OpenError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => OpenError::NoFolder(data.to_owned()),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            OpenError::ReadOnly(data.to_owned(), error.to_string())
        }
        _ => OpenError::Unusable(data.to_owned(), error.to_string()),
    })
}

enum Problem {
    Sqlite(rusqlite::Error),
    Foreign,
    Newer(i32),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn explain_problem(path: &Path, error: Problem) -> OpenError {
    match error {
        Problem::Sqlite(error) => explain(path, &error),
        Problem::Foreign => OpenError::Foreign(path.to_owned()),
        Problem::Newer(found) => OpenError::Newer { path: path.to_owned(), found },
    }
}

fn prepare(path: &Path) -> Result<Connection, Problem> {
    let connection = connect(path)?;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let mut found = FORMAT;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 {
        if pragma("application_id")? != APPLICATION_ID {
            return Err(Problem::Foreign);
        }
        found = pragma("user_version")?;
        if found > FORMAT {
            return Err(Problem::Newer(found));
        }
    }
    make_shrinkable(&connection, tables == 0)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // With FULL a job that was accepted survives a power failure too, not only the end of the process.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    if tables == 0 {
        let create = format!(
            "BEGIN IMMEDIATE; {} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;",
            include_str!("schema.sql")
        );
        connection.execute_batch(&create)?;
    }
    let missing = UPGRADES.iter().zip(2..).skip_while(|(_, format)| *format <= found);
    for (upgrade, format) in missing {
        let upgrade = format!("BEGIN IMMEDIATE; {upgrade} PRAGMA user_version = {format}; COMMIT;");
        connection.execute_batch(&upgrade)?;
    }
    Ok(connection)
}

/// Lets free pages be given back to the disk a few at a time. A file that was created without that is rebuilt once, unless
/// that would take too long or the disk has no room for it.
fn make_shrinkable(connection: &Connection, is_new: bool) -> rusqlite::Result<()> {
    const INCREMENTAL: i64 = 2;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if is_new {
        // Has an effect only before the first page is written.
        return connection.pragma_update(None, "auto_vacuum", INCREMENTAL);
    }
    if pragma("auto_vacuum")? == INCREMENTAL {
        return Ok(());
    }
    let used = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
    if used > MAX_REBUILT {
        tracing::warn!(
            "The data file cannot shrink, because an earlier version created it. To change that, stop the endpoint and run: \
             sqlite3 FILE 'PRAGMA auto_vacuum = INCREMENTAL; VACUUM;'"
        );
        return Ok(());
    }
    tracing::info!(bytes = used, "The data file is rebuilt once, so that it can shrink from now on.");
    connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    if let Err(error) = connection.execute_batch("VACUUM") {
        tracing::warn!(%error, "The data file could not be rebuilt. It is used as it is, and the next start tries again.");
    }
    Ok(())
}

/// One more connection to the file.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// SQLite's error as advice.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign(path),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse(path),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            OpenError::ReadOnly(path, error.to_string())
        }
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Damaged(path, error.to_string()),
        // What is read is not what was written.
        None => OpenError::Damaged(path, error.to_string()),
        _ => OpenError::Unusable(path, error.to_string()),
    }
}
