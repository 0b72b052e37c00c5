//! What counting costs: the worker's own CPU time per job, with metrics and without, taken in turns. The whole worker runs,
//! with the echo handler and a queue over HTTP on this machine.
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

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::routing::{get, post};
use bytes::Bytes;
use runpod_worker::base::{Identity, Secret, UrlTemplate};
use runpod_worker::dispatcher::{Dispatcher, EffectHandlers};
use runpod_worker::heartbeat::{self, Pulse};
use runpod_worker::metrics::Metrics;
use runpod_worker::observer::Observer;
use runpod_worker::outbox::{self, OutboxLimits, OutboxStats};
use runpod_worker::process::{HandlerCommand, Processes};
use runpod_worker::queue::{Extensions, HttpQueue, Outage, QueueConfig, hand_back, poller};
use runpod_worker_core::{DrainCause, Event, Policy, Snapshot};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};

/// Many short rounds: what else the machine does then meets all workers alike.
const ROUNDS: usize = 200;
/// Jobs between two looks at the CPU clock.
const JOBS: usize = 250;
/// Jobs before the first look.
const WARM_UP: usize = 200;

/// Present in the process that plays the queue.
const QUEUE: &str = "BENCH_QUEUE";

/// What the queue has left for each worker.
#[derive(Default)]
struct Left {
    jobs: [AtomicUsize; 3],
    more: Notify,
}

/// A queue of the platform's kind, in a process of its own so that its work is not counted. Says its port and serves for ever.
async fn serve_queue() {
    let left = Arc::new(Left::default());
    let numbers = Arc::new(AtomicUsize::new(0));
    let take = |State(left): State<Arc<Left>>, UrlPath(worker): UrlPath<usize>| async move {
        let available = |jobs: usize| jobs.checked_sub(1);
        loop {
            // Made before the look, so that what comes in between is heard.
            let more = left.more.notified();
            if left.jobs[worker].fetch_update(Ordering::AcqRel, Ordering::Acquire, available).is_ok() {
                break;
            }
            more.await;
        }
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let job = format!(r#"{{"id":"job-{number}","input":{{"text":"hello"}}}}"#);
        ([("content-type", "application/json")], job)
    };
    let give = |State(left): State<Arc<Left>>, UrlPath((worker, jobs)): UrlPath<(usize, usize)>| async move {
        left.jobs[worker].store(jobs, Ordering::Release);
        left.more.notify_waiters();
    };
    let routes = Router::new()
        .route("/job-take/{worker}", get(take))
        .route("/job-stop/{worker}", get(std::future::pending::<()>))
        .route("/job-done/{worker}/{job}", post(|_: Bytes| async { "{}" }))
        .route("/give/{worker}/{jobs}", post(give))
        .with_state(left);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    axum::serve(listener, routes).await.unwrap();
}

/// The process with the queue; it ends with this one's main.
struct QueueProcess {
    child: Child,
    base: String,
}

impl QueueProcess {
    #[expect(clippy::disallowed_methods, reason = "the bench starts its own queue")]
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.env(QUEUE, "1").stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { child, base: format!("http://127.0.0.1:{}", port.trim()) }
    }
}

impl Drop for QueueProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole worker, without its HTTP server.
struct Worker {
    index: usize,
    base: String,
    client: reqwest::Client,
    jobs: u64,
    events: mpsc::Sender<Event>,
    snapshots: watch::Receiver<Snapshot>,
    metrics: Arc<Metrics>,
    ends: tokio::task::JoinHandle<u8>,
}

impl Worker {
    fn start(handler: &Path, base: &str, index: usize, counting: bool) -> Self {
        let worker_id = index.to_string();
        let template = |path: &str| UrlTemplate::new(&format!("{base}/{path}"), &worker_id, None).unwrap();
        let config = QueueConfig {
            take: template("job-take/$ID"),
            done: template("job-done/$RUNPOD_POD_ID/$ID"),
            stream: None,
            key: Secret::new("bench"),
            worker_id: worker_id.clone(),
            extensions: Extensions::default(),
            tenant: None,
        };
        let queue = Arc::new(HttpQueue::new(&config).unwrap());
        let (events, inbox) = mpsc::channel(1024);
        let (publisher, snapshots) = watch::channel(Snapshot::default());
        let (pulse, metrics) = (Pulse::default(), Arc::new(Metrics::default()));
        let identity = Identity { worker_id, hostname: "bench".into(), endpoint_id: None };
        let heartbeat =
            heartbeat::spawn(None, snapshots.clone(), pulse.clone(), Arc::clone(&metrics), Outage::default()).unwrap();
        let command = HandlerCommand { program: handler.into(), args: Vec::new(), env: Vec::new() };
        let handlers = EffectHandlers {
            processes: Processes::new(command, events.clone()),
            poller: poller::spawn(Arc::clone(&queue), events.clone()),
            hand_backs: hand_back::spawn(Arc::clone(&queue)).0,
            outbox: outbox::spawn(queue, identity, OutboxLimits::default(), events.clone()),
            heartbeat: Arc::new(heartbeat),
            metrics: counting.then(|| Arc::clone(&metrics)),
            observer: Observer::new(None),
        };
        let dispatcher = Dispatcher::new(Policy::default(), handlers, inbox, publisher, pulse, Instant::now());
        let (base, client, ends) = (base.to_owned(), reqwest::Client::new(), tokio::spawn(dispatcher.run()));
        Self { index, base, client, jobs: 0, events, snapshots, metrics, ends }
    }

    /// Runs so many jobs; answers the CPU time of this process meanwhile.
    async fn run(&mut self, jobs: usize) -> Duration {
        self.jobs += jobs as u64;
        let goal = self.jobs;
        let before = cpu_time();
        self.client.post(format!("{}/give/{}/{jobs}", self.base, self.index)).send().await.unwrap();
        let over = |snapshot: &Snapshot| snapshot.jobs.completed == goal && snapshot.jobs.delivering == 0;
        self.snapshots.wait_for(over).await.unwrap();
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
    if std::env::var_os(QUEUE).is_some() {
        return serve_queue().await;
    }
    let rounds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROUNDS);
    let echo = echo();
    let queue = QueueProcess::start();
    let mut index = 0..;
    let mut workers = [true, false, false]
        .map(|counting| Worker::start(&echo, &queue.base, index.next().unwrap_or_default(), counting));
    for worker in &mut workers {
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
