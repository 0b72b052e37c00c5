//! Stores to test, and short names for what is done with them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use end_to_end_tests::{Postgres as Server, eventually};
use runpod_endpoint::store::{
    DatabaseError, DatabaseUrl, JobView, Limits, MemoryStore, NewJob, OpenError, Outcome, Payload, Policy,
    PostgresStore, Request, Setup, SqliteStore, Status, Store, StoreError, TakenJob,
};
use serde_json::value::RawValue;
use tempfile::TempDir;

/// A limit for whatever must happen in real time.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The endpoint of most tests.
pub(crate) const EP: &str = "ep";

/// A kind of store. One value stands for one place where jobs are kept.
pub(crate) trait Engine {
    fn new() -> Self;
    fn open_with(&self, setup: &Setup) -> Arc<dyn Store>;
    fn open(&self, limits: Limits) -> Arc<dyn Store> {
        self.open_with(&limits.into())
    }
    /// The same jobs once more, where they outlive the store.
    fn reopen(&self) -> Option<Arc<dyn Store>> {
        None
    }
}

pub(crate) struct Memory;

impl Engine for Memory {
    fn new() -> Self {
        Self
    }

    fn open_with(&self, setup: &Setup) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(setup.clone()))
    }
}

pub(crate) struct Sqlite {
    folder: TempDir,
}

impl Sqlite {
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Engine for Sqlite {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn open_with(&self, setup: &Setup) -> Arc<dyn Store> {
        Arc::new(open_free(&self.path(), setup).unwrap())
    }

    fn reopen(&self) -> Option<Arc<dyn Store>> {
        Some(self.open(Limits::default()))
    }
}

/// Whether there is a PostgreSQL to test against; says so if not.
pub(crate) fn has_postgres() -> bool {
    Server::shared().is_some()
}

/// A database of its own on a server that all tests share. Every store that is opened on it is one more replica.
pub(crate) struct Postgres {
    url: String,
}

/// Connections live as long as the runtime in which a store was opened; that of a test may be busy waiting for the store.
pub(crate) static CONNECTIONS: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());

/// Opens a store on a database, from a test that cannot wait.
pub(crate) fn open_database(url: &str, setup: &Setup) -> Result<PostgresStore, DatabaseError> {
    let (url, setup) = (url.parse::<DatabaseUrl>()?, setup.clone());
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    CONNECTIONS.spawn(async move { sender.send(PostgresStore::open(url, setup).await) });
    receiver.recv().unwrap()
}

impl Engine for Postgres {
    fn new() -> Self {
        Self { url: Server::shared().unwrap().database() }
    }

    fn open_with(&self, setup: &Setup) -> Arc<dyn Store> {
        Arc::new(open_database(&self.url, setup).unwrap())
    }

    fn reopen(&self) -> Option<Arc<dyn Store>> {
        Some(self.open(Limits::default()))
    }
}

/// Opens a file once nobody uses it: a timer of a store that was dropped may hold on to it for another moment.
pub(crate) fn open_free(path: &Path, setup: &Setup) -> Result<SqliteStore, OpenError> {
    let deadline = Instant::now() + SOON;
    loop {
        match SqliteStore::open(path, setup.clone()) {
            Err(OpenError::InUse(_)) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

pub(crate) fn payload(json: &str) -> Payload {
    RawValue::from_string(json.to_owned()).unwrap().into()
}

pub(crate) fn new_job(id: &str) -> NewJob {
    NewJob {
        id: id.into(),
        request: Request::new(payload(&format!("\"input of {id}\"")), Policy::default(), Duration::from_secs(300)),
    }
}

/// A job with another request than most.
pub(crate) fn job_with(id: &str, change: impl FnOnce(&mut Request)) -> NewJob {
    let mut job = new_job(id);
    change(&mut job.request);
    job
}

pub(crate) fn done(output: &str) -> Outcome {
    Outcome::completed(Some(payload(output)))
}

pub(crate) fn failed(error: &str) -> Outcome {
    Outcome::failed(error)
}

pub(crate) async fn submit(store: &dyn Store, id: &str) {
    store.submit(EP, new_job(id)).await.unwrap();
}

pub(crate) async fn view(store: &dyn Store, id: &str) -> JobView {
    store.view(EP, id, None).await.unwrap()
}

pub(crate) async fn status(store: &dyn Store, id: &str) -> Status {
    view(store, id).await.status
}

/// What is there to take without waiting.
pub(crate) async fn take(store: &dyn Store, worker: &str, max: usize) -> Vec<TakenJob> {
    store.take(EP, worker, max, Duration::ZERO).await.unwrap()
}

pub(crate) async fn take_ids(store: &dyn Store, worker: &str, max: usize) -> Vec<String> {
    take(store, worker, max).await.iter().map(|job| job.id.to_string()).collect()
}

pub(crate) fn output_of(job: &JobView) -> Option<&str> {
    text(job.ending.output.as_ref())
}

pub(crate) fn text(payload: Option<&Payload>) -> Option<&str> {
    payload.map(|payload| payload.get())
}

/// Asks again until the job is as wanted. Time is real here: a file does not wait for a paused clock.
pub(crate) async fn until(store: &dyn Store, id: &str, wanted: impl Fn(Result<&JobView, &StoreError>) -> bool) {
    eventually(&format!("job {id} to change"), || async {
        wanted(store.view(EP, id, None).await.as_ref()).then_some(())
    })
    .await;
}

/// One test for each store from each rule.
macro_rules! every_store {
    ($($rule:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $rule() { super::$rule::<$crate::support::Memory>().await; })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $rule() { super::$rule::<$crate::support::Sqlite>().await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $rule() {
                if $crate::support::has_postgres() {
                    super::$rule::<$crate::support::Postgres>().await;
                }
            })*
        }
    };
}
pub(crate) use every_store;
