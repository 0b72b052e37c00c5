//! The stores that are measured, and what is done with them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use end_to_end_tests::Postgres;
use runpod_endpoint::store::{
    Limits, MemoryStore, NewJob, Outcome, Payload, Policy, PostgresStore, Request, SqliteStore, Store,
};
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::task::JoinSet;

pub(crate) const ENDPOINT: &str = "bench";

/// Jobs that are submitted one by one to a deep database before they are copied.
const SUBMITTED: usize = 2_000;

/// A server that syncs every commit; `None` where PostgreSQL is not installed.
static SERVER: LazyLock<Option<Postgres>> = LazyLock::new(Postgres::durable);

/// All stores.
pub(crate) const ENGINES: [&str; 3] = ["memory", "file", "PostgreSQL"];

/// The stores that can be measured here.
pub(crate) fn engines() -> impl Iterator<Item = &'static str> {
    let has_database = SERVER.is_some();
    ENGINES.into_iter().filter(move |name| has_database || *name != "PostgreSQL")
}

/// A database of its own, where PostgreSQL is installed.
pub(crate) fn database() -> Option<Database> {
    SERVER.as_ref().map(|server| Database { server, url: server.database() })
}

/// A database without jobs.
pub(crate) struct Database {
    server: &'static Postgres,
    pub(crate) url: String,
}

impl Database {
    /// One more endpoint that uses it.
    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(self.url.parse().unwrap(), limits()).await.unwrap())
    }

    /// Transactions so far, of everybody who uses it.
    pub(crate) fn transactions(&self) -> u64 {
        let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        self.server.sql(&self.url, sql).parse().unwrap()
    }

    /// Queues many more jobs like the newest one.
    fn copy_jobs(&self, count: usize) {
        self.server.sql(
            &self.url,
            &format!(
                "WITH one AS (SELECT jobs AS job FROM jobs ORDER BY number DESC LIMIT 1), \
                 numbers AS (SELECT nextval('numbers') AS number FROM generate_series(1, {count})), \
                 copies AS (SELECT number, lpad(number::text, 36, 'c') || '-u1' AS id, job FROM numbers, one), \
                 added AS (INSERT INTO jobs SELECT copy.* FROM copies, LATERAL jsonb_populate_record(job, jsonb_build_object( \
                 'number', number, 'id', copies.id, 'place', number, 'record', replace(replace((job).record, \
                 '\"id\":\"' || (job).id || '\"', '\"id\":\"' || copies.id || '\"'), \
                 '\"number\":' || (job).number, '\"number\":' || number))) AS copy), \
                 filled AS (INSERT INTO payloads SELECT number, part, body FROM copies JOIN payloads ON payloads.job = (copies.job).number) \
                 UPDATE counters SET jobs = counters.jobs + {count}, in_queue = counters.in_queue + {count} \
                 WHERE ctid = (SELECT min(ctid) FROM counters)"
            ),
        );
        self.server.sql(&self.url, "VACUUM ANALYZE");
    }
}

/// A store, and where its jobs are.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) database: Option<Database>,
    _folder: Option<TempDir>,
}

fn limits() -> Limits {
    Limits { max_bytes: usize::MAX, ..Limits::default() }
}

/// An empty store. A file lies in the current folder's target, on a disk, and goes with the returned folder.
pub(crate) async fn open(engine: &str) -> Opened {
    match engine {
        "memory" => Opened { store: Arc::new(MemoryStore::new(limits())), database: None, _folder: None },
        "file" => {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let store = Arc::new(SqliteStore::open(folder.path(), limits()).unwrap());
            Opened { store, database: None, _folder: Some(folder) }
        }
        _ => {
            let database = database().unwrap();
            Opened { store: database.open().await, database: Some(database), _folder: None }
        }
    }
}

impl Opened {
    /// Queues jobs `from..to`, many at a time. In a database most of them are copies, which takes seconds instead of minutes.
    pub(crate) async fn fill(&self, from: usize, to: usize, clients: usize) {
        let submitted = match &self.database {
            Some(_) => to.min(from + SUBMITTED),
            None => to,
        };
        fill(&self.store, from, submitted, clients).await;
        if let Some(database) = &self.database
            && submitted < to
        {
            database.copy_jobs(to - submitted);
        }
    }
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
