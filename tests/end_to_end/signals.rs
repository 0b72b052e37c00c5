//! Signals that reach the worker and its handler process at once, as from systemd's control groups, `kill -- -PGID` or Ctrl-C. No
//! job is blamed for a shutdown.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::{FakeQueue, Worker, WorkerOptions, binary, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// What the rest of a job, and in one test a second start of the handler, may take on a loaded machine.
const DRAIN: Duration = Duration::from_secs(40);

async fn handler_pid(worker: &Worker) -> Pid {
    let pid = eventually("the pid of the handler process", || async {
        worker.health().await["worker"]["processes"][0]["pid"].as_i64()
    })
    .await;
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// A worker with this handler that has just begun with the job `running`.
async fn running(queue: &FakeQueue, handler: &Path, ms: u64) -> Worker {
    let worker = Worker::start_with(queue.worker_env(), handler, WorkerOptions::default());
    worker.ready().await;
    queue.job("running", &json!({"do": "sleep_ms", "ms": ms}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("running")).await;
    eventually("the job to run", || async {
        let health = worker.health().await;
        (health["worker"]["slots"]["busy"] == 1).then_some(())
    })
    .await;
    worker
}

/// The one result of the job is its output.
fn assert_completed(queue: &FakeQueue, worker: &Worker, what: &str) {
    let results = queue.results("running");
    assert_eq!(results.len(), 1, "{what}: {results:?}\n{}", worker.daemon.log());
    assert!(results[0]["output"].is_object() || results[0].get("error").is_none(), "{what}: {results:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_worker_and_handler_at_once_lets_the_running_job_finish() {
    for (signal, handler_first) in [(Signal::TERM, true), (Signal::TERM, false), (Signal::HUP, true)] {
        let queue = FakeQueue::start();
        let mut worker = running(&queue, &binary("puppet-handler"), 2500).await;
        let pid = handler_pid(&worker).await;
        if handler_first {
            kill_process(pid, signal).unwrap();
        }
        worker.daemon.signal(signal);
        if !handler_first {
            kill_process(pid, signal).unwrap();
        }
        let what = format!("{signal:?}, handler first: {handler_first}");
        assert_eq!(worker.daemon.wait(DRAIN).code(), Some(0), "{what}: {}", worker.daemon.log());
        assert_completed(&queue, &worker, &what);
    }
}

/// A handler behind a shell script, which ends at the signal.
fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("handler.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_handler_ends_at_the_signal_is_run_again_during_the_drain() {
    let puppet = binary("puppet-handler").display().to_string();
    let wrappers = [
        // Does not handle signals, so that the signal ends it.
        format!("{puppet}\nexit $?"),
        // Handles the signal and chooses its exit code.
        format!("exec 3<&0\ntrap 'kill -9 $child; exit 1' TERM\n{puppet} <&3 &\nchild=$!\nwait"),
    ];
    for wrapper in wrappers {
        let (queue, folder) = (FakeQueue::start(), tempfile::tempdir().unwrap());
        let mut worker = running(&queue, &script(folder.path(), &wrapper), 1500).await;
        kill_process(handler_pid(&worker).await, Signal::TERM).unwrap();
        worker.daemon.signal(Signal::TERM);
        assert_eq!(worker.daemon.wait(DRAIN).code(), Some(0), "{wrapper}\n{}", worker.daemon.log());
        assert_completed(&queue, &worker, &wrapper);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_all_while_the_handler_loads_ends_a_healthy_worker() {
    let queue = FakeQueue::start();
    let options = WorkerOptions::default().env("PUPPET_START", "load_slow").env("PUPPET_LOAD_MS", "5000");
    let mut worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    kill_process(handler_pid(&worker).await, Signal::TERM).unwrap();
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(DRAIN).code(), Some(0), "{}", worker.daemon.log());
    let unhealthy = queue.seen("ping").into_iter().filter(|ping| ping.query.contains("unhealthy")).count();
    assert_eq!(unhealthy, 0);
}
