//! The stores that are measured, and what is done with them.

use std::sync::Arc;
use std::time::Duration;

use runpod_endpoint::store::{Limits, MemoryStore, NewJob, Outcome, Payload, Policy, Request, SqliteStore, Store};
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::task::JoinSet;

pub(crate) const ENGINES: [&str; 2] = ["memory", "file"];
pub(crate) const ENDPOINT: &str = "bench";

/// An empty store. A file lies in the current folder's target, on a disk, and goes with the returned folder.
pub(crate) fn open(engine: &str) -> (Arc<dyn Store>, Option<TempDir>) {
    let limits = Limits { max_bytes: usize::MAX, ..Limits::default() };
    if engine == "memory" {
        return (Arc::new(MemoryStore::new(limits)), None);
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    (Arc::new(SqliteStore::open(folder.path(), limits).unwrap()), Some(folder))
}

/// A JSON string of 1 kB.
pub(crate) fn kilobyte() -> Payload {
    RawValue::from_string(format!("\"{}\"", "x".repeat(998))).unwrap().into()
}

pub(crate) fn new_job(number: usize) -> NewJob {
    NewJob {
        // As long as a real one.
        id: format!("{number:036}-u1").into(),
        // Each job has its own copy, as if it had come by the network.
        request: Request::new(
            RawValue::from_string(kilobyte().get().to_owned()).unwrap().into(),
            Policy::default(),
            Duration::from_secs(1800),
        ),
    }
}

/// Submits jobs `from..to`, many at a time.
pub(crate) async fn fill(store: &Arc<dyn Store>, from: usize, to: usize, clients: usize) {
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for number in (from + client..to).step_by(clients) {
                store.submit(ENDPOINT, new_job(number)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

/// Takes and finishes every waiting job; returns how many.
pub(crate) async fn empty(store: &Arc<dyn Store>, workers: usize) -> usize {
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let name = format!("w{worker}");
            let mut done = 0;
            while let [job] = &*store.take(ENDPOINT, &name, 1, Duration::ZERO).await.unwrap() {
                let outcome = Outcome::completed(Some(kilobyte()));
                store.finish(ENDPOINT, &name, &job.id, outcome).await.unwrap();
                done += 1;
            }
            done
        });
    }
    tasks.join_all().await.into_iter().sum()
}
