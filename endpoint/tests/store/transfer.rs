//! All jobs of a data file move into a database and back: complete or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use end_to_end_tests::{Daemon, Postgres as Server, eventually, run_tool, until as until_true};
use runpod_endpoint::store::{
    DatabaseError, DatabaseUrl, Idempotency, JobFilter, Limits, MoveError, Moved, OpenError, Seen, Setup, Store,
    WebhookEnd, WebhookQueue, export_file, import_file,
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{
    EP, Engine, SOON, Sqlite, done, failed, job_with, open_database, open_free, output_of, payload, submit, take,
    take_ids, until,
};

/// Another endpoint, whose jobs have the same numbers in the file.
const OTHER: &str = "other";
const BATCHES: &str = "batches";
const WEBHOOK: &str = "https://example.com/hook";

const PROGRAM: &str = env!("CARGO_BIN_EXE_runpod-endpoint");

/// A file and a database, with the program's tools in between.
struct Ends {
    file: Sqlite,
    url: String,
}

impl Ends {
    fn new(server: &Server) -> Self {
        Self { file: Sqlite::new(), url: server.database() }
    }

    fn database(&self) -> DatabaseUrl {
        self.url.parse().unwrap()
    }

    async fn import(&self) -> Result<Moved, MoveError> {
        import_file(&self.file.path(), &self.database(), |_, _| ()).await
    }

    /// Once the connections of a store that was dropped are closed.
    async fn export(&self, to: &Path) -> Moved {
        eventually("the database to be free", || async {
            match export_file(&self.database(), to, |_, _| ()).await {
                Err(MoveError::Database(DatabaseError::InUse(_))) => None,
                moved => Some(moved.unwrap()),
            }
        })
        .await
    }

    /// `database import`, and its arguments.
    fn command(&self, what: &str) -> [String; 6] {
        let data = self.file.path().display().to_string();
        ["database", what, "--database", &*self.url, "--data", &*data].map(str::to_owned)
    }

    /// The one line with which it refuses.
    fn refusal(&self, what: &str) -> String {
        let command = self.command(what);
        let output = run_tool(PROGRAM, &command.each_ref().map(String::as_str));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
        assert!(output.stdout.is_empty());
        error
    }
}

/// Jobs in every state, of three endpoints, with everything that a job can bring with it.
async fn fill(store: &dyn Store) {
    for id in ["completed", "failed", "given-up", "due", "streamed", "running"] {
        let webhook = ["given-up", "due"].contains(&id).then(|| WEBHOOK.into());
        let s3_config = (id == "running").then(|| payload("{\"bucketName\": \"b\"}"));
        let traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        let job = job_with(id, |request| {
            (request.webhook, request.s3_config, request.traceparent) = (webhook, s3_config, traceparent);
        });
        store.submit(EP, job).await.unwrap();
    }
    take(store, "w", 6).await;
    store.finish(EP, "w", "completed", done("{\"a\":  1.50}")).await.unwrap();
    for id in ["failed", "given-up", "due"] {
        store.finish(EP, "w", id, failed("bad \u{0} \u{1F600}")).await.unwrap();
    }
    let webhook = store.webhook(EP, "given-up").await.unwrap().unwrap();
    store.webhook_ended(EP, "given-up", webhook.end_number, WebhookEnd::GivenUp("no answer".into())).await.unwrap();
    for item in ["\"one\"", "2"] {
        store.stream_item(EP, "w", "streamed", payload(item)).await.unwrap();
    }
    store.drain(EP, "streamed", Duration::ZERO).await.unwrap();
    for item in ["[3]", "\"\u{fc}\""] {
        store.stream_item(EP, "w", "streamed", payload(item)).await.unwrap();
    }
    store.progress(EP, "w", "running", Some(payload("{\"step\": 1}"))).await.unwrap();
    let low = job_with("low", |request| request.policy.low_priority = true);
    store.submit(EP, low).await.unwrap();
    for id in ["cancelled", "first", "second"] {
        submit(store, id).await;
    }
    store.cancel(EP, "cancelled").await.unwrap();
    let key = Idempotency { key: [1; 32], body: [2; 32] };
    store.submit(EP, job_with("with-a-key", |request| request.idempotency = Some(key))).await.unwrap();
    for number in 0..3 {
        store.submit(OTHER, job_with(&format!("other-{number}"), |_| ())).await.unwrap();
    }
    store.set_paused(OTHER, true).await.unwrap();
    for batch in ["draft", "runs"] {
        let jobs = ["1", "2"].map(|number| job_with(&format!("{batch}-{number}"), |_| ()));
        store.create_batch(BATCHES, batch.into(), jobs.into()).await.unwrap();
    }
    store.rename_batch(BATCHES, "runs", Some("nightly".into())).await.unwrap();
    store.finalize_batch(BATCHES, "runs").await.unwrap();
    store.take(BATCHES, "w", 1, Duration::ZERO).await.unwrap();
    store.finish(BATCHES, "w", "runs-1", done("1")).await.unwrap();
}

/// Everything that can be seen of all endpoints without changing anything.
async fn look(store: &dyn Store) -> Vec<String> {
    let mut seen = Vec::new();
    for endpoint in [EP, OTHER, BATCHES] {
        seen.push(format!("{endpoint}: {:?}", store.health(endpoint).await.unwrap()));
        let waiting = store.pending(endpoint, 99).await.unwrap();
        let waiting: Vec<_> = waiting.iter().filter(|job| job.attempt.number == 0).map(|job| job.id.clone()).collect();
        seen.push(format!("waiting: {waiting:?}"));
        for row in store.list(endpoint, &JobFilter { limit: 99, ..JobFilter::default() }).await.unwrap() {
            let job = store.inspect(endpoint, &row.view.id, Seen::default(), Duration::ZERO).await.unwrap();
            let history: Vec<_> =
                job.history.iter().map(|entry| (entry.status, entry.at.as_millis(), entry.worker.clone())).collect();
            let (view, items) = (job.view, (job.first_item, job.items));
            let submitted = row.submitted.as_millis();
            seen.push(format!("{submitted} {view:?} {:?} {items:?} {history:?}", job.input));
            if let Some(webhook) = store.webhook(endpoint, &row.view.id).await.unwrap() {
                seen.push(format!("due: {:?} {:?} {:?}", webhook.job, webhook.request, webhook.url));
            }
        }
        for batch in store.batches(endpoint, 0, 9).await.unwrap().entries {
            let jobs = store.batch_requests(endpoint, &batch.id, 0, 9).await.unwrap().entries;
            let jobs: Vec<_> = jobs.iter().map(|job| (job.view.id.clone(), job.view.status)).collect();
            seen.push(format!("{:?} {:?} {:?} {:?} {jobs:?}", batch.id, batch.name, batch.state, batch.counts));
        }
        seen.push(format!("given up: {:?}", store.given_up(endpoint, 0, 9).await.unwrap()));
    }
    seen
}

/// What only shows when it goes on, the same in the database and in the file.
async fn go_on(store: &dyn Store, submitted: &str) {
    let key = Idempotency { key: [1; 32], body: [2; 32] };
    let again = job_with("another", |request| request.idempotency = Some(key));
    assert_eq!(&*store.submit(EP, again).await.unwrap().id, "with-a-key");
    submit(store, submitted).await;
    let (_, items) = store.drain(EP, "streamed", Duration::ZERO).await.unwrap();
    assert_eq!(items.iter().map(|item| item.get()).collect::<Vec<_>>(), ["[3]", "\"\u{fc}\""]);
    assert_eq!(take_ids(store, "v", 9).await, ["first", "second", "with-a-key", submitted, "low"]);
    store.finish(EP, "w", "running", done("1")).await.unwrap();
    until(store, "running", |job| job.is_ok_and(|job| output_of(job) == Some("1"))).await;
    assert_eq!(store.take(OTHER, "v", 9, Duration::ZERO).await.unwrap().len(), 0, "it is paused");
    store.set_paused(OTHER, false).await.unwrap();
    assert_eq!(store.take(OTHER, "v", 9, Duration::ZERO).await.unwrap().len(), 3);
    let taken = store.take(BATCHES, "v", 9, Duration::ZERO).await.unwrap();
    assert_eq!(taken.iter().map(|job| &*job.id).collect::<Vec<_>>(), ["runs-2"], "nothing of a draft");
    store.finish(BATCHES, "v", "runs-2", done("2")).await.unwrap();
    assert_eq!(store.batch(BATCHES, "runs").await.unwrap().counts.completed, 2);
    store.finalize_batch(BATCHES, "draft").await.unwrap();
    assert_eq!(store.take(BATCHES, "v", 9, Duration::ZERO).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_moves_into_a_database_and_back_with_all_that_it_holds() {
    let Some(server) = Server::shared() else { return };
    let ends = Ends::new(server);
    let store = ends.file.open(Limits::default());
    fill(&*store).await;
    drop(store);
    // As a file has it: milliseconds, and of each history what is kept.
    let store = open_free(&ends.file.path(), &Setup::default()).unwrap();
    let before = look(&store).await;
    drop(store);
    let moved = eventually("the file to be free", || async {
        match ends.import().await {
            Err(MoveError::Data(OpenError::InUse(_))) => None,
            moved => Some(moved.unwrap()),
        }
    })
    .await;
    assert_eq!(moved, Moved { endpoints: 3, jobs: 18 });

    let (webhooks, mut due) = WebhookQueue::channel();
    let store = open_database(&ends.url, &Setup { webhooks, ..Setup::default() }).unwrap();
    assert_eq!(look(&store).await, before);
    let due = timeout(SOON, due.recv()).await.unwrap().unwrap();
    assert_eq!((&*due.endpoint, &*due.job, &*due.url), (EP, "due", WEBHOOK));
    drop(store);

    let folder = TempDir::new().unwrap();
    let back = folder.path().join("back.db");
    assert_eq!(ends.export(&back).await, moved);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["back.db"]);
    let store = open_free(&back, &Setup::default()).unwrap();
    assert_eq!(look(&store).await, before);
    go_on(&store, "in-the-file").await;
    let store: Arc<dyn Store> = Arc::new(open_database(&ends.url, &Setup::default()).unwrap());
    go_on(&*store, "in-the-database").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_does_not_run_out_between_the_move_and_the_start() {
    let Some(server) = Server::shared() else { return };
    let ends = Ends::new(server);
    let store = ends.file.open(Limits::default());
    submit(&*store, "a").await;
    store.heartbeat(EP, "w", runpod_endpoint::store::Heartbeat::default()).await.unwrap();
    assert_eq!(take_ids(&*store, "w", 1).await, ["a"]);
    drop(store);
    eventually("the import", || async { ends.import().await.ok() }).await;
    // As if an hour had gone by since then.
    let hour = 3_600_000_000_i64;
    server.sql(
        &ends.url,
        &format!(
            "UPDATE beat SET at = at - {hour}; UPDATE jobs SET due = due - {hour}, record = \
             jsonb_set(record::jsonb, '{{job,state,Running,lease,secs}}', \
             to_jsonb((record::jsonb #>> '{{job,state,Running,lease,secs}}')::bigint - 3600))::text"
        ),
    );
    let store: Arc<dyn Store> = Arc::new(open_database(&ends.url, &Setup::default()).unwrap());
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    let ended = store.view(EP, "a", None).await.unwrap();
    assert_eq!((output_of(&ended), ended.attempt.retries), (Some("1"), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_or_not_empty_is_refused_in_one_line() {
    let Some(server) = Server::shared() else { return };
    let ends = Ends::new(server);
    assert!(ends.refusal("import").contains("there is no such file"));
    assert!(ends.refusal("export").contains("correct the name of the database"));
    let store = ends.file.open(Limits::default());
    submit(&*store, "a").await;
    assert!(ends.refusal("import").contains("another process uses this file"));
    drop(store);
    assert_eq!(eventually("the import", || async { ends.import().await.ok() }).await.jobs, 1);
    assert!(ends.refusal("import").contains("there are 1 jobs in it already"));
    assert!(ends.refusal("export").contains("the file exists already"));

    let store: Arc<dyn Store> = Arc::new(open_database(&ends.url, &Setup::default()).unwrap());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for what in ["import", "export"] {
        let refusal = ends.refusal(what);
        assert!(refusal.contains(&format!("the endpoint on {host} uses it")), "{refusal}");
    }
    assert_eq!(take_ids(&*store, "w", 9).await, ["a"], "nothing was changed");
}

/// A file with many jobs.
async fn many(file: &Sqlite) -> usize {
    let store = file.open(Limits::default());
    let jobs = 2600;
    let submitting = (0..jobs).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { submit(&*store, &format!("job-{number}")).await })
    });
    for submitted in submitting.collect::<Vec<_>>() {
        submitted.await.unwrap();
    }
    jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_leaves_nothing_behind_and_can_be_repeated() {
    let Some(server) = Server::shared() else { return };
    let ends = Ends::new(server);
    let jobs = many(&ends.file).await;
    drop(open_database(&ends.url, &Setup::default()).unwrap());
    // Holds up the import in its middle.
    server.sql(
        &ends.url,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'; \
         CREATE TRIGGER wait BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.id = 'job-2000') EXECUTE FUNCTION wait()",
    );
    let mut import = Daemon::start("import", Path::new(PROGRAM), &ends.command("import"), &[]);
    import.logs("of 2600 jobs").await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    until_true("the import to be in its middle", || server.sql(&ends.url, waits) == "1").await;
    let starting = run_tool(PROGRAM, &["database", "migrate", "--database", &ends.url]);
    let refused = String::from_utf8_lossy(&starting.stderr).into_owned();
    assert!(refused.contains("about to move or migrate") && refused.lines().count() == 1, "{refused}");
    import.signal(Signal::KILL);
    import.wait(SOON);
    // The server notices at the end of the statement; a host that is gone, later.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event = 'PgSleep'; DROP TRIGGER wait ON jobs";
    server.sql(&ends.url, end);
    let tables =
        "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM payloads) + (SELECT count(*) FROM endpoints)";
    assert_eq!(server.sql(&ends.url, tables), "0");
    assert_eq!(ends.import().await.unwrap().jobs, jobs as u64);
    assert_eq!(server.sql(&ends.url, "SELECT count(*) FROM jobs WHERE waiting"), jobs.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_leaves_no_file_and_can_be_repeated() {
    let Some(server) = Server::shared() else { return };
    let mut ends = Ends::new(server);
    let jobs = many(&ends.file).await;
    eventually("the import", || async { ends.import().await.ok() }).await;
    ends.file = Sqlite::new();
    let unfinished = |ends: &Ends| PathBuf::from(format!("{}.part", ends.file.path().display()));
    // One that is killed too late has written a complete file.
    let mut was_in_the_middle = false;
    for _ in 0..20 {
        let mut export = Daemon::start("export", Path::new(PROGRAM), &ends.command("export"), &[]);
        export.logs("of 2600 jobs").await;
        let _ = rustix::process::kill_process(export.pid(), Signal::KILL);
        export.wait(SOON);
        was_in_the_middle = unfinished(&ends).exists();
        if was_in_the_middle {
            assert!(!ends.file.path().exists(), "a file that is not complete");
            break;
        }
        assert_eq!(open_free(&ends.file.path(), &Setup::default()).unwrap().health(EP).await.unwrap().in_queue, jobs);
        ends.file = Sqlite::new();
    }
    assert!(was_in_the_middle, "each export was faster than its end");
    assert_eq!(ends.export(&ends.file.path()).await.jobs, jobs as u64);
    assert!(!unfinished(&ends).exists());
    let store = open_free(&ends.file.path(), &Setup::default()).unwrap();
    assert_eq!(store.health(EP).await.unwrap().in_queue, jobs);
    assert_eq!(take_ids(&store, "w", 2).await.len(), 2);
}
