//! What a handler leaves behind goes with it: processes in sessions of their own, and the temporary folders of its jobs.

use std::path::Path;

use end_to_end_tests::{Stack, WorkerOptions, eventually, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{END, is_alive};

/// The line that a job has written to a file.
async fn line(path: &Path) -> String {
    eventually("the file of the job", || async {
        std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
    })
    .await
    .trim()
    .to_owned()
}

/// Starts an escapee and returns its process id.
async fn escapee(stack: &Stack) -> i32 {
    let file = stack.endpoint.folder().join("escapee");
    let job = stack.client.run(json!({"do": "escapee", "pid_file": file})).await;
    assert_eq!(job["status"], "COMPLETED", "{job}");
    let pid = line(&file).await.parse().unwrap();
    assert!(is_alive(pid));
    pid
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_in_a_session_of_its_own_is_gone_before_the_next_handler_starts() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let pid = escapee(&stack).await;
    let handler = stack.worker.handler_pid().await.and_then(Pid::from_raw).unwrap();
    kill_process(handler, Signal::KILL).unwrap();
    let next = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(next["status"], "COMPLETED");
    assert!(!is_alive(pid), "a new handler runs beside it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_in_a_session_of_its_own_does_not_outlive_the_worker() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let pid = escapee(&stack).await;
    stack.worker.daemon.signal(Signal::TERM);
    assert_eq!(stack.worker.daemon.wait(END).code(), Some(0));
    until("the escapee to end", || !is_alive(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_temporary_folder_of_a_job_goes_with_a_handler_that_is_killed() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let file = stack.endpoint.folder().join("path");
    let id = stack.client.submit(json!({"do": "temp_dir", "path_file": file})).await;
    let folder = line(&file).await;
    assert!(Path::new(&folder).is_dir(), "{folder}");
    let handler = stack.worker.handler_pid().await.and_then(Pid::from_raw).unwrap();
    kill_process(handler, Signal::KILL).unwrap();
    stack.client.finished(&id).await;
    let next = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(next["status"], "COMPLETED");
    assert!(!Path::new(&folder).exists(), "{folder} is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_temporary_folder_of_a_job_goes_with_a_worker_that_is_killed_when_the_next_one_starts() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let file = stack.endpoint.folder().join("path");
    stack.client.submit(json!({"do": "temp_dir", "path_file": file})).await;
    let folder = line(&file).await;
    stack.worker.daemon.signal(Signal::KILL);
    stack.worker.daemon.wait(END);
    let _next = super::worker(&stack.endpoint, "worker-1", &[]).await;
    until("the folder to go", || !Path::new(&folder).exists()).await;
}
