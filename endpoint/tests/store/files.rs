//! Data files that cannot be used: one line that says what to do, and an exit status.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use runpod_endpoint::store::{Limits, OpenError, SqliteStore, Status, Store, StoreError};
use rusqlite::Connection;
use tokio::time::timeout;

use crate::support::{
    EP, Engine, SOON, Sqlite, done, job_with, new_job, open_free, output_of, payload, status, submit, take, text, view,
};

fn refusal(path: &Path) -> OpenError {
    match SqliteStore::open(path, Limits::default()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_folder_stands_for_a_file_in_it() {
    let engine = Sqlite::new();
    drop(SqliteStore::open(engine.folder(), Limits::default()).unwrap());
    assert!(engine.folder().join("endpoint.db").is_file());
}

#[tokio::test]
async fn nobody_else_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    for entry in std::fs::read_dir(engine.folder()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let engine = Sqlite::new();
    let _store = engine.open(Limits::default());
    assert!(matches!(refusal(&engine.path()), OpenError::InUse(_)));
}

#[tokio::test]
async fn something_else_is_refused_and_left_alone() {
    let engine = Sqlite::new();
    let text = "not a database, though long enough to be looked at as one. ".repeat(100);
    std::fs::write(engine.path(), &text).unwrap();
    assert!(matches!(refusal(&engine.path()), OpenError::Foreign(_)));
    assert_eq!(std::fs::read_to_string(engine.path()).unwrap(), text);

    let other = engine.folder().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    assert!(matches!(refusal(&other), OpenError::Foreign(_)));
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let engine = Sqlite::new();
    drop(engine.open(Limits::default()));
    Connection::open(engine.path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(refusal(&engine.path()), OpenError::Newer { found: 99, .. }));
}

#[tokio::test]
async fn a_file_of_an_older_format_is_brought_up_to_date() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "done").await;
    take(&*store, "w", 1).await;
    store.finish(EP, "w", "done", done("1")).await.unwrap();
    let timeout = Some(Duration::from_secs(60));
    store.submit(EP, job_with("own", |request| request.policy.execution_timeout = timeout)).await.unwrap();
    submit(&*store, "default").await;
    drop(store);
    // Once the file is free, as format 1 had it.
    drop(engine.open(Limits::default()));
    let first_format = "ALTER TABLE jobs DROP COLUMN far_id; ALTER TABLE jobs DROP COLUMN cost;
        ALTER TABLE jobs DROP COLUMN webhook_given_up; ALTER TABLE jobs DROP COLUMN webhook_error;
        ALTER TABLE endpoints DROP COLUMN paused; ALTER TABLE jobs DROP COLUMN batch; ALTER TABLE jobs DROP COLUMN ttl;
        ALTER TABLE jobs DROP COLUMN idempotency_key; ALTER TABLE jobs DROP COLUMN body_digest; ALTER TABLE jobs DROP COLUMN share;
        ALTER TABLE jobs DROP COLUMN handovers; ALTER TABLE jobs DROP COLUMN handover_since; ALTER TABLE jobs DROP COLUMN far_cancel;
        DROP TABLE batches; PRAGMA user_version = 1;
        UPDATE jobs SET execution_timeout = 600000 WHERE execution_timeout = 0;";
    Connection::open(engine.path()).unwrap().execute_batch(first_format).unwrap();

    for _ in 0..2 {
        let store = engine.open(Limits::default());
        let job = view(&*store, "done").await;
        assert_eq!((output_of(&job), job.ending.cost.is_none()), (Some("1"), true));
    }
    let store = engine.open(Limits::default());
    let taken = take(&*store, "w", 2).await;
    assert_eq!(taken.iter().map(|job| job.request.policy.execution_timeout).collect::<Vec<_>>(), [timeout, None]);
    let mut outcome = done("2");
    outcome.ending.cost = Some(payload("7"));
    store.finish(EP, "w", "own", outcome).await.unwrap();
    assert_eq!(text(view(&*store, "own").await.ending.cost.as_ref()), Some("7"));
    let format = Connection::open(engine.path()).unwrap().pragma_query_value(None, "user_version", |row| row.get(0));
    assert_eq!(format, Ok(7));
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    for number in 0..200 {
        store.submit(EP, new_job(&number.to_string())).await.unwrap();
    }
    drop(store);
    let mut bytes = std::fs::read(engine.path()).unwrap();
    let page = 4096;
    assert!(bytes.len() > 4 * page, "everything is in the first pages");
    bytes[page..].fill(0xa5);
    std::fs::write(engine.path(), bytes).unwrap();
    assert!(matches!(refusal(&engine.path()), OpenError::Damaged(..)));
}

#[tokio::test]
async fn places_without_a_folder_or_without_rights_are_refused() {
    let engine = Sqlite::new();
    assert!(matches!(refusal(&engine.folder().join("missing/jobs.db")), OpenError::NoFolder(_)));
    // Not even root may create files here.
    assert!(matches!(refusal(Path::new("/proc/self/jobs.db")), OpenError::NoFolder(_) | OpenError::ReadOnly(..)));
}

#[tokio::test]
async fn the_program_names_the_file_in_use_in_one_line() {
    let engine = Sqlite::new();
    let _store = engine.open(Limits::default());
    #[expect(clippy::disallowed_methods, reason = "the test runs the program under test")]
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_runpod-endpoint"));
    command.args(["serve", "--bind", "127.0.0.1:0", "--data"]).arg(engine.path());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(SOON, command.output()).await.unwrap().unwrap();
    let expected = format!(
        "runpod-endpoint: --data {}: another process uses this file; stop it or choose another path\n",
        engine.path().display()
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    assert_eq!((output.status.code(), output.stdout), (Some(1), Vec::new()));
}

#[tokio::test]
async fn a_file_in_use_is_refused_under_every_name_that_it_has() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "kept").await;
    let folder = engine.folder();
    std::fs::hard_link(engine.path(), folder.join("hard.db")).unwrap();
    std::os::unix::fs::symlink(engine.path(), folder.join("soft.db")).unwrap();
    std::fs::create_dir(folder.join("inner")).unwrap();
    std::os::unix::fs::symlink(folder, folder.join("inner/outer")).unwrap();
    for name in ["jobs.db", "hard.db", "soft.db", "inner/../jobs.db", "inner/outer/jobs.db"] {
        assert!(matches!(refusal(&folder.join(name)), OpenError::InUse(_)), "{name}");
    }
    assert_eq!(take(&*store, "w", 1).await.len(), 1, "the refused ones did no harm");
    store.finish(EP, "w", "kept", done("1")).await.unwrap();
    drop(store);
    let store = engine.open(Limits::default());
    assert_eq!(output_of(&view(&*store, "kept").await), Some("1"));
}

#[tokio::test]
async fn a_file_that_was_not_closed_is_opened_only_under_the_name_that_has_its_newest_changes() {
    let engine = Sqlite::new();
    drop(engine.open(Limits::default()));
    let link = engine.folder().join("link.db");
    std::fs::hard_link(engine.path(), &link).unwrap();
    let setup = Limits::default().into();
    drop(open_free(&link, &setup).unwrap());
    // As a crash leaves it.
    std::fs::write(engine.folder().join("jobs.db-wal"), "changes").unwrap();
    let refusal = open_free(&link, &setup).err();
    assert!(matches!(&refusal, Some(OpenError::OtherName { other, .. }) if other.ends_with("jobs.db")), "{refusal:?}");
    let text = refusal.map(|refusal| refusal.to_string()).unwrap_or_default();
    assert!(text.contains("jobs.db, and its newest changes are in") && text.ends_with("jobs.db"), "{text}");
}

#[tokio::test]
async fn a_file_that_is_locked_only_as_earlier_versions_do_is_refused() {
    let engine = Sqlite::new();
    let earlier = std::fs::File::create(engine.folder().join("jobs.db.lock")).unwrap();
    earlier.lock().unwrap();
    assert!(matches!(refusal(&engine.path()), OpenError::InUse(_)));
}

/// Waits until the file has at most this length.
async fn until_shorter(path: &Path, bytes: u64) {
    let waiting = async {
        while std::fs::metadata(path).unwrap().len() > bytes {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let size = || std::fs::metadata(path).unwrap().len();
    assert!(timeout(SOON, waiting).await.is_ok(), "the file still has {} bytes", size());
}

const MIB: u64 = 1 << 20;

/// Submits 20 MiB and lets it expire.
async fn fill_and_empty(store: &dyn Store) {
    let megabyte = format!("\"{}\"", "x".repeat(1 << 20));
    for number in 0..20 {
        let job = job_with(&number.to_string(), |request| request.input = payload(&megabyte));
        store.submit(EP, job).await.unwrap();
    }
    assert_eq!(store.purge(EP).await, Ok(20));
    for number in 0..20 {
        let _ = store.view(EP, &number.to_string(), Some(Duration::ZERO)).await;
    }
}

#[tokio::test]
async fn the_file_shrinks_when_jobs_have_expired() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "kept").await;
    take(&*store, "w", 1).await;
    fill_and_empty(&*store).await;
    until_shorter(&engine.path(), 6 * MIB).await;
    until_shorter(&engine.folder().join("jobs.db-wal"), 0).await;
    assert_eq!(status(&*store, "kept").await, Status::InProgress);
}

#[tokio::test]
async fn a_file_of_an_earlier_version_shrinks_too() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "kept").await;
    take(&*store, "w", 1).await;
    drop(store);
    // Once the file is free, as earlier versions created it.
    drop(engine.open(Limits::default()));
    let file = Connection::open(engine.path()).unwrap();
    file.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM;").unwrap();
    assert_eq!(file.pragma_query_value(None, "auto_vacuum", |row| row.get(0)), Ok(0));
    drop(file);

    let store = engine.open(Limits::default());
    fill_and_empty(&*store).await;
    until_shorter(&engine.path(), 6 * MIB).await;
    store.finish(EP, "w", "kept", done("1")).await.unwrap();
    assert_eq!(output_of(&view(&*store, "kept").await), Some("1"));
}

#[tokio::test]
async fn large_results_that_are_being_read_have_a_limit() {
    let engine = Sqlite::new();
    let store = engine.open(Limits { max_read_bytes: 5 << 20, ..Limits::default() });
    let ids = ["a", "b", "c"];
    for id in ids {
        submit(&*store, id).await;
        take(&*store, "w", 1).await;
        store.finish(EP, "w", id, done(&format!("\"{}\"", "x".repeat(2 << 20)))).await.unwrap();
    }
    let mut held = Vec::new();
    for id in ["a", "b", "a", "b"] {
        held.push(store.view(EP, id, None).await.unwrap());
    }
    assert_eq!(store.view(EP, "c", None).await.err(), Some(StoreError::ReadMemoryFull));
    drop(held);
    assert!(store.view(EP, "c", None).await.is_ok(), "what nobody holds any more does not count");
}

#[tokio::test]
async fn readers_of_a_large_result_share_one_copy_and_see_every_change() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    let large = |letter: &str| format!("\"{}\"", letter.repeat(1 << 20));
    for letter in ["x", "y"] {
        store.progress(EP, "w", "a", Some(payload(&large(letter)))).await.unwrap();
        let reads: Vec<_> = (0..20).map(|_| store.view(EP, "a", None)).collect();
        let views = futures_util::future::join_all(reads).await;
        let outputs: Vec<_> = views.into_iter().map(|view| view.unwrap().ending.output.unwrap()).collect();
        assert!(outputs.iter().all(|output| std::sync::Arc::ptr_eq(output, &outputs[0])), "there are several copies");
        assert!(outputs[0].get() == large(letter), "an old progress update is shown");
    }
}
