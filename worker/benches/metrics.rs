//! What counting costs: the worker's own CPU time per job, with metrics and without, taken in turns. The whole worker runs,
//! with a queue in memory and the echo handler; without HTTP in between, the share of metrics is larger than in production.
//! A second worker without metrics tells how far two equal workers differ on this machine at this moment: a difference that
//! is no larger than that is none.
//!
//! `cargo bench --package runpod-worker --bench metrics [-- ROUNDS]`
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement prints, or fails loudly"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_worker::config::Identity;
use runpod_worker::core::{DrainCause, Event, JobId, Policy, Snapshot, TakenJob};
use runpod_worker::dispatcher::{Dispatcher, Hands};
use runpod_worker::heartbeat::{self, Pulse};
use runpod_worker::metrics::Metrics;
use runpod_worker::outbox::{self, OutboxLimits, OutboxStats};
use runpod_worker::process::{HandlerCommand, Processes};
use runpod_worker::queue::{JobSource, PostReply, ResultSink, StopReply, TakeReply, poller};
use runpod_worker::telemetry::Observer;
use tokio::sync::{Notify, mpsc, watch};

/// Many short rounds: what else the machine does then meets all workers alike.
const ROUNDS: usize = 200;
/// Jobs between two looks at the CPU clock.
const JOBS: usize = 250;
/// Jobs before the first look.
const WARM_UP: usize = 200;

/// A queue in memory that always has a job while a round lasts.
#[derive(Default)]
struct Queue {
    left: AtomicUsize,
    taken: AtomicUsize,
    done: AtomicUsize,
    /// When `done` gets there, the round is over.
    goal: AtomicUsize,
    more: Notify,
    over: Notify,
}

impl JobSource for Queue {
    async fn take(&self, _want: usize, _holding: bool) -> TakeReply {
        while self.left.load(Ordering::Acquire) == 0 {
            self.more.notified().await;
        }
        self.left.fetch_sub(1, Ordering::AcqRel);
        let id = format!("job-{}", self.taken.fetch_add(1, Ordering::Relaxed));
        let body = Bytes::from(format!(r#"{{"id":"{id}","input":{{"text":"hello"}}}}"#));
        TakeReply::Jobs(vec![TakenJob::new(id.into(), Ok(body))])
    }

    async fn stops(&self) -> StopReply {
        std::future::pending().await
    }
}

impl ResultSink for Queue {
    async fn post_final(&self, _: &JobId, _: Bytes, _: bool) -> PostReply {
        if self.done.fetch_add(1, Ordering::AcqRel) + 1 == self.goal.load(Ordering::Acquire) {
            self.over.notify_one();
        }
        PostReply::Status { code: 200, retry_after: None }
    }

    async fn post_chunk(&self, _: &JobId, _: Bytes) -> PostReply {
        PostReply::NoRoute
    }

    async fn post_progress(&self, _: &JobId, _: Bytes) -> PostReply {
        PostReply::NoRoute
    }
}

/// A whole worker, without its HTTP server.
struct Worker {
    queue: Arc<Queue>,
    events: mpsc::Sender<Event>,
    snapshots: watch::Receiver<Snapshot>,
    metrics: Arc<Metrics>,
    ends: tokio::task::JoinHandle<u8>,
}

impl Worker {
    fn start(handler: &Path, counting: bool) -> Self {
        let queue = Arc::new(Queue::default());
        let (events, inbox) = mpsc::channel(1024);
        let (publisher, snapshots) = watch::channel(Snapshot::default());
        let (pulse, metrics) = (Pulse::default(), Arc::new(Metrics::default()));
        let identity = Identity { worker_id: "bench".into(), hostname: "bench".into(), endpoint_id: None };
        let heartbeat = heartbeat::spawn(None, snapshots.clone(), pulse.clone(), Arc::clone(&metrics)).unwrap();
        let command = HandlerCommand { program: handler.into(), args: Vec::new(), env: Vec::new() };
        let hands = Hands {
            processes: Processes::new(command, events.clone()),
            poller: poller::spawn(Arc::clone(&queue), events.clone()),
            outbox: outbox::spawn(Arc::clone(&queue), identity, OutboxLimits::default(), events.clone()),
            heartbeat: Arc::new(heartbeat),
            metrics: counting.then(|| Arc::clone(&metrics)),
            observer: Observer::new(None),
        };
        let dispatcher = Dispatcher::new(Policy::default(), hands, inbox, publisher, pulse, Instant::now());
        Self { queue, events, snapshots, metrics, ends: tokio::spawn(dispatcher.run()) }
    }

    /// Runs so many jobs; answers the CPU time of this process meanwhile.
    async fn run(&self, jobs: usize) -> Duration {
        let before = cpu_time();
        self.queue.goal.fetch_add(jobs, Ordering::AcqRel);
        self.queue.left.store(jobs, Ordering::Release);
        self.queue.more.notify_one();
        self.queue.over.notified().await;
        cpu_time() - before
    }

    async fn end(self) {
        self.events.send(Event::Drain(DrainCause::Signal)).await.unwrap();
        assert_eq!(self.ends.await.unwrap(), 0, "the worker did not end well");
    }
}

/// CPU time of all threads of this process so far.
fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// The echo example, built with the profile of this bench.
#[expect(clippy::disallowed_methods, reason = "the bench builds the handler that it needs")]
fn echo() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let folder = exe.ancestors().nth(2).unwrap();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--locked", "--package", "echo", "--bins"]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    let built = build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).status().unwrap();
    assert!(built.success(), "the echo handler cannot be built");
    folder.join("echo")
}

/// The time that a tenth of the rounds stays below, in microseconds for each job. Other programs only ever add to the time,
/// and not to every round.
fn undisturbed(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 10].as_secs_f64() * 1e6 / JOBS as f64
}

#[tokio::main]
async fn main() {
    let rounds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROUNDS);
    let echo = echo();
    let workers = [true, false, false].map(|counting| Worker::start(&echo, counting));
    for worker in &workers {
        worker.run(WARM_UP).await;
    }
    let mut times = [const { Vec::new() }; 3];
    for round in 0..rounds {
        // None is always the first.
        for turn in 0..workers.len() {
            let index = (round + turn) % workers.len();
            times[index].push(workers[index].run(JOBS).await);
        }
    }
    let [on, off, again] = [0, 1, 2].map(|index| undisturbed(&times[index]));
    let percent = |time: f64| (time / off - 1.0) * 100.0;
    println!("{rounds} rounds of {JOBS} jobs each; CPU time of the worker per job, in the fastest tenth");
    println!("metrics on {on:.1} µs, off {off:.1} µs: {:+.1} %", percent(on));
    println!("off in a second worker {again:.1} µs: {:+.1} %", percent(again));

    let [with, without @ ..] = workers;
    let scrapes = 1000;
    let begin = Instant::now();
    let mut bytes = 0;
    for _ in 0..scrapes {
        with.metrics.publish(&with.snapshots.borrow());
        with.metrics.sample(Duration::ZERO, None, &OutboxStats::default());
        bytes = with.metrics.encode().expect("text").len();
    }
    println!("one scrape {:.0} µs, {bytes} bytes", begin.elapsed().as_secs_f64() * 1e6 / f64::from(scrapes));
    with.end().await;
    for worker in without {
        worker.end().await;
    }
}
