//! Signals that mean "end" and reach more processes than the worker: from systemd, from a terminal, from a container engine.

use std::path::{Path, PathBuf};

use end_to_end_tests::{Daemon, Endpoint, Stack, Worker, WorkerOptions, binary, free_port, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{END, family, is_alive};

/// Sends a signal to processes in this order; one that has ended meanwhile is skipped.
fn signal_all(pids: &[i32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let _ = kill_process(pid, signal);
    }
}

async fn job_and_family(stack: &Stack) -> (String, Vec<i32>) {
    let id = stack.client.submit(json!({"do": "sleep_ms", "ms": 2000})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    until("the job to begin", || stack.worker.daemon.log().contains("Started.")).await;
    let family = family(stack.worker.daemon.pid().as_raw_nonzero().get());
    assert!(family.len() > 1, "the worker has no handler");
    (id, family)
}

async fn completes(stack: &mut Stack, id: &str) {
    let job = stack.client.finished(id).await;
    assert_eq!(job["status"], "COMPLETED", "{job}\n{}", stack.worker.daemon.log());
    assert_eq!(stack.worker.daemon.wait(END).code(), Some(0), "{}", stack.worker.daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_every_process_lets_the_running_job_finish() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
        let (id, family) = job_and_family(&stack).await;
        signal_all(&family, signal);
        if matches!(signal, Signal::TERM | Signal::INT) {
            completes(&mut stack, &id).await;
        } else {
            // Whether a worker ends by them or goes on: no job is blamed.
            let job = stack.client.finished(&id).await;
            assert_eq!(job["status"], "COMPLETED", "{signal:?}: {job}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_reaches_the_handler_first_lets_the_running_job_finish() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let (id, mut family) = job_and_family(&stack).await;
    family.reverse();
    let (worker, handlers) = family.split_last().unwrap();
    signal_all(handlers, Signal::TERM);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    signal_all(&[*worker], Signal::TERM);
    completes(&mut stack, &id).await;
}

/// A program around the handler that knows nothing of workers dies of the signal, and the handler with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_script_that_dies_of_the_signal_fails_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("wrapper");
    let handler = binary("puppet-handler");
    std::fs::write(&wrapper, format!("#!/bin/sh\n'{}'\n", handler.display())).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let endpoint = Endpoint::start(&[]).await;
    let mut worker = Worker::start(&endpoint, &wrapper, WorkerOptions::default());
    worker.ready().await;
    let client = endpoint.client();
    let id = client.submit(json!({"do": "sleep_ms", "ms": 2000})).await;
    client.reaches(&id, "IN_PROGRESS").await;
    until("the job to begin", || worker.daemon.log().contains("Started.")).await;
    let mut family = family(worker.daemon.pid().as_raw_nonzero().get());
    family.reverse();
    signal_all(&family, Signal::TERM);
    assert_eq!(worker.daemon.wait(END).code(), Some(0), "{}", worker.daemon.log());
    let job = client.status(&id).await;
    assert_ne!(job["status"], "FAILED", "{job}");
}

/// Runs a program in a terminal of its own and presses Ctrl-C there when a file appears.
const TERMINAL: &str = "
import os, pty, sys, threading, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
def press():
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.02)
    os.write(terminal, b'\\x03')
threading.Thread(target=press, daemon=True).start()
try:
    while data := os.read(terminal, 65536):
        os.write(1, data)
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";

struct Terminal {
    daemon: Daemon,
    button: PathBuf,
}

impl Terminal {
    fn start(folder: &Path, env: &[(String, String)], command: &[String]) -> Self {
        let button = folder.join("press");
        let args: Vec<String> = ["-c".to_owned(), TERMINAL.to_owned(), button.display().to_string()]
            .into_iter()
            .chain(command.to_vec())
            .collect();
        Self { daemon: Daemon::start("terminal", Path::new("python3"), &args, env), button }
    }

    fn press_ctrl_c(&self) {
        std::fs::write(&self.button, "").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_a_terminal_lets_the_running_job_finish() {
    let endpoint = Endpoint::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let programs = [binary("runpod-worker"), binary("puppet-handler")].map(|path| path.display().to_string());
    let [worker, handler] = programs;
    let command =
        [worker, "run".into(), "--http-bind".into(), format!("127.0.0.1:{}", free_port()), "--".into(), handler];
    let mut terminal = Terminal::start(folder.path(), &endpoint.worker_env("worker-1"), &command);
    let client = endpoint.client();
    let id = client.submit(json!({"do": "sleep_ms", "ms": 2000})).await;
    client.reaches(&id, "IN_PROGRESS").await;
    until("the job to begin", || terminal.daemon.log().contains("Started.")).await;
    terminal.press_ctrl_c();
    let job = client.finished(&id).await;
    assert_eq!(job["status"], "COMPLETED", "{job}\n{}", terminal.daemon.log());
    assert_eq!(terminal.daemon.wait(END).code(), Some(0), "{}", terminal.daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_after_a_signal_to_every_process() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--processes", "2"])).await;
    let family = family(stack.worker.daemon.pid().as_raw_nonzero().get());
    signal_all(&family, Signal::TERM);
    assert_eq!(stack.worker.daemon.wait(END).code(), Some(0));
    until("every process to end", || !family.iter().any(|pid| is_alive(*pid))).await;
}
