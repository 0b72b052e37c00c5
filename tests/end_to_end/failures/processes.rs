//! Handler processes that crash or hang. The worker goes on, and so do the jobs that did not cause it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use end_to_end_tests::{
    Daemon, FakeQueue, Reply, Stack, Worker, WorkerOptions, binary, eventually, not_tested, worker_env,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::error;

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_handler_fails_its_job_and_nothing_else() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let id = stack.client.submit(json!({"do": "sleep_ms", "ms": 600_000})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    let worker = stack.worker.daemon.pid();
    let handler = stack.worker.handler_pid().await.unwrap();
    let pings = |health: &Value| health["worker"]["lastPing"]["sent"].as_u64().unwrap();
    let before = pings(&stack.worker.health().await);

    kill_process(Pid::from_raw(handler).unwrap(), Signal::KILL).unwrap();
    let crashed = error(&stack.client.finished(&id).await);
    assert_eq!(crashed["error_type"], "crashed");
    assert!(crashed["error_message"].as_str().unwrap().contains("SIGKILL"), "{crashed}");

    let next = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(next["status"], "COMPLETED");
    assert_ne!(stack.worker.handler_pid().await, Some(handler), "it is a new process");
    assert_eq!(stack.worker.daemon.pid(), worker);
    assert!(stack.worker.daemon.is_running());
    eventually("the heartbeat to go on", || async {
        let health = stack.worker.health().await;
        (pings(&health) > before + 1 && health["worker"]["lastPing"]["failures"] == 0).then_some(())
    })
    .await;
    let health = stack.client.health().await;
    assert_eq!((&health["jobs"]["completed"], &health["jobs"]["failed"]), (&json!(1), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segfault_names_its_signal_and_quotes_the_last_words() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let crashed = error(&stack.client.run(json!({"do": "segv"})).await);
    assert_eq!(crashed["error_type"], "crashed");
    assert!(crashed["error_message"].as_str().unwrap().contains("SIGSEGV"), "{crashed}");
    assert!(crashed["error_traceback"].as_str().unwrap().contains("puppet"), "{crashed}");
    assert_eq!(crashed["worker_id"], "worker-1");
    assert_eq!(stack.worker.health().await["jobs"]["retried"], 0, "that it had begun was known at once");
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn last_words_are_quoted_without_the_workers_key() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let key = worker_env("", "")
        .into_iter()
        .find_map(|(name, value)| (name == "RUNPOD_AI_API_KEY").then_some(value))
        .unwrap();
    let job = json!({"do": "last_words", "text": format!("the key {key} does not fit")});
    let crashed = error(&stack.client.run(job).await);
    let words = crashed["error_traceback"].as_str().unwrap();
    assert!(words.contains("the key *** does not fit") && !words.contains(&key), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_a_dying_process_had_not_begun_runs_in_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let once = folder.path().join("once").to_string_lossy().into_owned();
    let options = WorkerOptions::default().env("PUPPET_START", "raw_segv_on_arrival").env("PUPPET_ONCE", &once);
    let stack = Stack::start("puppet-handler", options).await;
    let job = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!((&job["status"], &job["output"]["attempt"]), (&json!("COMPLETED"), &json!(2)), "{job}");
    assert_eq!(stack.worker.health().await["jobs"]["retried"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_arrival_kills_every_process_fails_in_the_end() {
    let options = WorkerOptions::default().env("PUPPET_START", "raw_segv_on_arrival");
    let stack = Stack::start("puppet-handler", options).await;
    let crashed = error(&stack.client.run(json!({"do": "ok"})).await);
    assert_eq!(crashed["error_type"], "crashed", "{crashed}");
    assert_eq!(stack.worker.health().await["jobs"]["retried"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deadly_signal_and_an_exit_are_named() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    for (job, signal, name) in [
        (json!({"do": "abort"}), None, "SIGABRT"),
        (json!({"do": "exit", "code": 7}), None, "exit code 7"),
        (json!({"do": "sleep_ms", "ms": 600_000}), Some(Signal::BUS), "SIGBUS"),
        (json!({"do": "sleep_ms", "ms": 600_000}), Some(Signal::ILL), "SIGILL"),
    ] {
        let id = stack.client.submit(job).await;
        if let Some(signal) = signal {
            stack.client.reaches(&id, "IN_PROGRESS").await;
            let handler = stack.worker.handler_pid().await.and_then(Pid::from_raw).unwrap();
            // Rust's own handler of SIGBUS returns once, as it does for SIGSEGV.
            while kill_process(handler, signal).is_ok() && stack.client.status(&id).await["status"] == "IN_PROGRESS" {}
        }
        let crashed = error(&stack.client.finished(&id).await);
        assert_eq!(crashed["error_type"], "crashed");
        assert!(crashed["error_message"].as_str().unwrap().contains(name), "{name}: {crashed}");
        assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED", "after {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_jobs_in_a_crashed_process_only_the_one_that_crashed_it_fails() {
    let queue = FakeQueue::start();
    let options = WorkerOptions::flags(&["--slots", "3"]);
    let worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    worker.ready().await;
    let job = |id: &str, input: Value| json!({"id": id, "input": input});
    let innocent = |id| job(id, json!({"do": "sleep_ms", "ms": 700}));
    queue.take(Reply::json(json!([innocent("innocent-1"), innocent("innocent-2")]).to_string()));
    // A job that has not begun is above suspicion.
    eventually("two busy slots", async || (worker.health().await["worker"]["slots"]["busy"] == 2).then_some(())).await;
    queue.take(Reply::json(json!([job("guilty", json!({"do": "segv"}))]).to_string()));
    for innocent in ["innocent-1", "innocent-2"] {
        assert_eq!(queue.result(innocent).await["output"]["attempt"], 2);
    }
    assert_eq!(error(&queue.result("guilty").await)["error_type"], "crashed");
    assert_eq!(worker.health().await["jobs"]["retried"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_crashes_in_a_short_time_make_the_worker_unhealthy() {
    let queue = FakeQueue::start();
    let mut worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), WorkerOptions::default());
    for number in 0..5 {
        let (bad, good) = (format!("bad-{number}"), format!("good-{number}"));
        queue.job(&bad, &json!({"do": "segv"}));
        assert_eq!(error(&queue.result(&bad).await)["error_type"], "crashed");
        if number < 4 {
            queue.job(&good, &json!({"do": "ok"}));
            queue.result(&good).await;
        }
    }
    let report = queue.sees("ping", "the unhealthy report", |seen| seen.query.contains("status=unhealthy")).await;
    assert!(report.query.contains("check=crash_loop"), "{}", report.query);
    assert_eq!(worker.daemon.wait(Duration::from_secs(20)).code(), Some(1));
    assert_eq!(queue.results("bad-4").len(), 1, "what was known is delivered before the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unresponsive_process_is_replaced() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let before = stack.worker.handler_pid().await;
    let frozen = error(&stack.client.run(json!({"do": "freeze"})).await);
    assert_eq!(frozen["error_type"], "unresponsive");
    let next = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(next["status"], "COMPLETED");
    assert_ne!(next["output"]["pid"].as_i64(), before.map(i64::from));
}

/// A zombie whose tracer does not look at it cannot be reaped by its parent: as close as a test comes to a process that
/// hangs in the kernel.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_be_reaped_ends_the_worker_after_its_jobs_were_answered() {
    const PTRACE_SEIZE: u32 = 0x4206;
    let queue = FakeQueue::start();
    let options = WorkerOptions::flags(&["--job-timeout", "1s", "--cancel-grace", "100ms"]);
    let mut worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    worker.ready().await;
    let handler = worker.handler_pid().await.unwrap();
    let script = format!(
        "import ctypes, time\n\
         ptrace = ctypes.CDLL(None, use_errno=True).ptrace\n\
         print('seized' if ptrace({PTRACE_SEIZE}, {handler}, None, None) == 0 else 'refused', flush=True)\n\
         time.sleep(600)"
    );
    let tracer = Daemon::start("tracer", Path::new("python3"), &["-c".to_owned(), script], &[]);
    let answer = eventually("the tracer", || async { Some(tracer.log()).filter(|log| log.contains('\n')) }).await;
    if answer.trim() != "seized" {
        not_tested("this machine does not let one process trace another");
        return;
    }
    queue.job("stuck", &json!({"do": "spin"}));
    assert_eq!(error(&queue.result("stuck").await)["error_type"], "timeout");
    let report = queue.sees("ping", "the unhealthy report", |seen| seen.query.contains("status=unhealthy")).await;
    assert!(report.query.contains("check=reap"), "{}", report.query);
    assert_eq!(worker.daemon.wait(Duration::from_secs(30)).code(), Some(1));
}

/// A memory cgroup (version 1 or 2) below this process's own, if this machine lets us make one.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit: u64) -> Option<Self> {
        let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let line = membership.lines().find(|line| line.contains(":memory:") || line.starts_with("0::"))?;
        let (v1, path) = (line.contains(":memory:"), line.rsplit(':').next()?.trim_start_matches('/'));
        let mount = Path::new(if v1 { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" });
        let parent =
            [mount.join(path), mount.to_owned()].into_iter().find(|folder| folder.join("cgroup.procs").exists());
        let group = Self(parent?.join(format!("runpod-worker-test-{}", std::process::id())));
        std::fs::create_dir(&group.0).ok()?;
        let (limit_file, counter) =
            if v1 { ("memory.limit_in_bytes", "memory.oom_control") } else { ("memory.max", "memory.events") };
        std::fs::write(group.0.join(limit_file), limit.to_string()).ok()?;
        std::fs::read_to_string(group.0.join(counter)).ok()?.contains("oom_kill ").then_some(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its last member may still be on its way out.
        let begin = Instant::now();
        while std::fs::remove_dir(&self.0).is_err() && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernels_oom_killer_is_told_from_a_crash() {
    let Some(group) = MemoryGroup::new(256 * 1024 * 1024) else {
        not_tested("this machine does not let us make a memory cgroup");
        return;
    };
    let queue = FakeQueue::start();
    // The worker enters the group before it becomes itself, so that its handler is in there too.
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
    let programs = [binary("runpod-worker"), binary("puppet-handler")].map(|path| path.to_string_lossy().into_owned());
    let args = ["-c", &enter, &programs[0], "run", "--http-bind", "none", "--", &programs[1]];
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let mut worker = Daemon::start("worker", Path::new("sh"), &args, &queue.worker_env());
    queue.job("greedy", &json!({"do": "leak", "bytes": 2_000_000_000_u64}));
    let killed = error(&queue.result("greedy").await);
    assert_eq!(killed["error_type"], "oom", "{killed}");
    assert!(killed["error_message"].as_str().unwrap().contains("out-of-memory killer"), "{killed}");
    queue.job("modest", &json!({"do": "ok"}));
    assert_eq!(queue.result("modest").await["output"]["ok"], true);
    assert!(worker.is_running());
    drop(worker);
    drop(group);
}
