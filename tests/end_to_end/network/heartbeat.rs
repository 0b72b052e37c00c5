//! The heartbeat goes on whatever else does not.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Daemon, FakeQueue, Reply, WorkerOptions, eventually, not_tested};
use serde_json::json;

use super::{start, still_works};

/// Waits for some more pings and returns the longest time between two of them.
async fn longest_silence(queue: &FakeQueue, pings: usize) -> Duration {
    let before = queue.seen("ping").len();
    eventually("more pings", || async { (queue.seen("ping").len() >= before + pings).then_some(()) }).await;
    let times: Vec<_> = queue.seen("ping").into_iter().skip(before.saturating_sub(1)).map(|ping| ping.at).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
}

/// The interval is one second; a loaded machine may be late, but three missed pings are no lateness.
const SILENCE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_precedes_the_first_poll_and_names_the_jobs_that_are_held() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    let take = eventually("a take", || async { queue.seen("job-take").into_iter().next() }).await;
    let ping = queue.seen("ping").remove(0);
    assert!(ping.at < take.at, "the first ping comes before the first take");
    assert!(!ping.query.contains("job_id") && ping.query.contains("runpod_version="), "{}", ping.query);
    queue.job("held", &json!({"do": "sleep_ms", "ms": 1500}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("job_id=held")).await;
    queue.result("held").await;
    let before = queue.seen("ping").len();
    eventually("a ping without it", || async { queue.seen("ping").into_iter().nth(before + 1) }).await;
    assert!(!queue.seen("ping").last().unwrap().query.contains("job_id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_goes_on_while_the_handler_spins() {
    let (queue, _worker) =
        start(WorkerOptions::flags(&["--slots", "2", "--job-timeout", "5s", "--cancel-grace", "0s"])).await;
    queue.job("spin", &json!({"do": "spin"}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("spin")).await;
    assert!(longest_silence(&queue, 3).await < SILENCE);
    queue.result("spin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_goes_on_while_results_are_stuck() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    (0..20).for_each(|_| queue.done(Reply::never()));
    for number in 0..20 {
        queue.job(&format!("stuck-{number}"), &json!({"do": "big_output", "bytes": 1_000_000}));
    }
    // As many as may be under way at the same time.
    eventually("all posts to hang", || async { (queue.seen("job-done").len() >= 16).then_some(()) }).await;
    assert!(longest_silence(&queue, 3).await < SILENCE);
    assert!(queue.seen("ping").last().unwrap().query.contains("stuck-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_goes_on_while_the_worker_drowns_in_messages() {
    let (queue, worker) =
        start(WorkerOptions::flags(&["--slots", "4", "--job-timeout", "8s", "--cancel-grace", "0s"])).await;
    let jobs = [
        json!({"id": "talks", "input": {"do": "progress", "n": 100_000_000_u64}}),
        json!({"id": "talks-too", "input": {"do": "progress", "n": 100_000_000_u64}}),
        json!({"id": "shouts", "input": {"do": "log", "lines": 100_000_000_u64, "bytes": 2000}}),
    ];
    queue.take(Reply::json(serde_json::Value::from(jobs.to_vec()).to_string()));
    queue.sees("ping", "the jobs are held", |ping| ping.query.contains("talks")).await;
    assert!(longest_silence(&queue, 4).await < SILENCE);
    assert_eq!(worker.health().await["worker"]["lastPing"]["failures"], 0);
    for id in ["talks", "shouts"] {
        assert!(queue.result(id).await["error"].as_str().unwrap().contains("timeout"));
    }
}

/// A tracer can stop single threads, which is as close as a test comes to a dispatcher that hangs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes more than a minute: `make soak` runs it"]
async fn the_heartbeat_ends_the_worker_when_the_dispatcher_hangs() {
    const SCRIPT: &str = "
import ctypes, os, sys
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
ptrace = ctypes.CDLL(None).ptrace
folder = f'/proc/{sys.argv[1]}/task'
name_of = lambda thread: open(f'{folder}/{thread}/comm').read().strip()
threads = [int(thread) for thread in os.listdir(folder) if name_of(thread) not in ('heartbeat', 'log')]
stopped = all(ptrace(SEIZE, thread, None, None) == 0 and ptrace(INTERRUPT, thread, None, None) == 0 for thread in threads)
print('stopped' if stopped else 'refused', flush=True)
try:
    while True:
        os.waitpid(-1, WALL)
except ChildProcessError:
    pass";
    let (queue, mut worker) = start(WorkerOptions::default()).await;
    queue.job("held", &json!({"do": "sleep_ms", "ms": 600_000}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("held")).await;
    let handler = worker.handler_pid().await.unwrap();
    let worker_pid = worker.daemon.pid().as_raw_nonzero().to_string();
    let args = ["-c".to_owned(), SCRIPT.to_owned(), worker_pid];
    let tracer = Daemon::start("tracer", Path::new("python3"), &args, &[]);
    let answer = eventually("the tracer", || async { Some(tracer.log()).filter(|log| log.contains('\n')) }).await;
    if answer.trim() != "stopped" {
        not_tested("this machine does not let one process trace another");
        return;
    }
    assert!(longest_silence(&queue, 3).await < SILENCE, "the heartbeat itself is well");
    // A minute of silence, and then some for a loaded machine.
    let status = worker.daemon.wait(Duration::from_secs(120));
    assert_eq!(status.signal(), Some(rustix::process::Signal::ABORT.as_raw()), "{status:?}");
    assert!(worker.daemon.log().contains("The dispatcher has been stuck"), "{}", worker.daemon.log());
    eventually("its handler to be gone", || async { (!Path::new(&format!("/proc/{handler}")).exists()).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_that_fail_are_repeated_and_harm_nothing() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    for reply in [Reply::status(500), Reply::status(404), Reply::never(), Reply::status(429)] {
        queue.ping(reply);
    }
    eventually("a failure to be counted and overcome", || async {
        let ping = &worker.health().await["worker"]["lastPing"];
        (ping["failures"].as_u64() >= Some(2) && ping["failuresInARow"] == 0).then_some(())
    })
    .await;
    still_works(&queue, "after").await;
}
