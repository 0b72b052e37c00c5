//! How long a slot stays lost: from the signal that ends a job (cancel, deadline, crash) to the process being gone and to the
//! next job running. The whole worker runs, with a queue in memory and the puppet as handler.
//!
//! `cargo bench --package runpod-worker --bench time_to_free [-- RUNS]`
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement prints, or fails loudly"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser as _;
use runpod_worker::app::{self, Control};
use runpod_worker::cli::{Cli, Command as Verb};
use runpod_worker::config::{Config, ProcessEnvironment};
use runpod_worker::queue::{JobSource, PostReply, ResultBody, ResultSink, StopReply, TakeReply};
use runpod_worker_core::{DrainCause, Event, JobId, TakenJob};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Mutex, mpsc, oneshot};

/// How long a deaf job may go on before its process is killed; taken off the figures.
const GRACE: Duration = Duration::from_millis(50);
/// Deadline of the jobs that run into theirs.
const DEADLINE: Duration = Duration::from_millis(200);
/// Nothing here takes as long.
const LIMIT: Duration = Duration::from_secs(30);
const RUNS: usize = 40;

/// A queue in memory that says when each job was first heard of.
struct Queue {
    jobs: Mutex<mpsc::Receiver<(String, &'static str, Option<Duration>)>>,
    stops: Mutex<mpsc::Receiver<JobId>>,
    heard: mpsc::Sender<(JobId, Instant)>,
}

impl JobSource for Queue {
    async fn take(&self, _want: usize, _holding: bool) -> TakeReply {
        let Some((id, deed, timeout)) = self.jobs.lock().await.recv().await else {
            return std::future::pending().await;
        };
        let body = Bytes::from(format!(r#"{{"id":"{id}","input":{deed}}}"#));
        TakeReply::Jobs(vec![TakenJob { timeout, ..TakenJob::new(id.into(), Ok(body)) }])
    }

    async fn stops(&self) -> StopReply {
        match self.stops.lock().await.recv().await {
            Some(job) => StopReply::Stop(vec![job]),
            None => std::future::pending().await,
        }
    }
}

impl Queue {
    async fn hear(&self, job: &JobId) -> PostReply {
        self.heard.send((job.clone(), Instant::now())).await.expect("the bench listens");
        PostReply::Status { code: 200, retry_after: None }
    }
}

impl ResultSink for Queue {
    async fn post_final(&self, job: &JobId, _body: ResultBody, _streamed: bool) -> PostReply {
        self.hear(job).await
    }

    async fn post_chunk(&self, job: &JobId, _body: Bytes) -> PostReply {
        self.hear(job).await
    }

    async fn post_progress(&self, job: &JobId, _body: Bytes) -> PostReply {
        self.hear(job).await
    }
}

/// How a job is ended.
#[derive(Clone, Copy)]
enum End {
    Cancel,
    Deadline,
    Kill,
}

struct Bench {
    jobs: mpsc::Sender<(String, &'static str, Option<Duration>)>,
    stops: mpsc::Sender<JobId>,
    heard: mpsc::Receiver<(JobId, Instant)>,
    control: Control,
    count: usize,
}

impl Bench {
    /// The first sign of life of this job.
    async fn hears(&mut self, job: &str) -> Instant {
        loop {
            let (id, at) = tokio::time::timeout(LIMIT, self.heard.recv()).await.expect("in time").expect("it runs");
            if id.as_str() == job {
                return at;
            }
        }
    }

    fn pid(&self) -> Option<u32> {
        self.control.snapshots.borrow().processes[0].pid
    }

    /// Ends one job; answers the time from the signal to the end of its process, if it ended, and to the next job's run.
    async fn once(&mut self, deed: &'static str, end: End) -> (Option<Duration>, Duration) {
        self.count += 1;
        let (job, next) = (format!("job-{}", self.count), format!("next-{}", self.count));
        let timeout = matches!(end, End::Deadline).then_some(DEADLINE);
        self.jobs.send((job.clone(), deed, timeout)).await.unwrap();
        let running = |control: &Control| control.snapshots.borrow().held.iter().any(|held| held.as_str() == job);
        while !running(&self.control) {
            self.control.snapshots.changed().await.unwrap();
        }
        let taken = Instant::now();
        let pid = self.pid().unwrap();
        self.jobs.send((next.clone(), r#"{"do":"progress","n":1}"#, None)).await.unwrap();
        // The job has begun to spin by then.
        tokio::time::sleep(DEADLINE / 2).await;
        let signal = match end {
            End::Cancel => {
                self.stops.send(job.as_str().into()).await.unwrap();
                Instant::now()
            }
            End::Kill => {
                kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
                Instant::now()
            }
            End::Deadline => taken + DEADLINE,
        };
        let mut snapshots = self.control.snapshots.clone();
        let gone = tokio::spawn(async move {
            loop {
                if snapshots.borrow_and_update().processes[0].pid != Some(pid) {
                    return Instant::now();
                }
                snapshots.changed().await.unwrap();
            }
        });
        let ran = self.hears(&next).await;
        let gone = if self.pid() == Some(pid) {
            gone.abort();
            None
        } else {
            Some(gone.await.unwrap() - signal)
        };
        (gone, ran - signal)
    }

    async fn measure(&mut self, title: &str, runs: usize, deed: &'static str, end: End, grace: Duration) {
        let (mut gone, mut next) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let (process, job) = self.once(deed, end).await;
            gone.extend(process.map(|time| time.saturating_sub(grace)));
            next.push(job.saturating_sub(grace));
        }
        println!("{title:42} process gone {}   next job running {}", spread(gone), spread(next));
    }
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    if times.is_empty() { "(kept)".to_owned() } else { format!("{:.1} / {:.1} / {:.1} ms", at(0.5), at(0.9), at(1.0)) }
}

/// The puppet, built with the profile of this bench.
#[expect(clippy::disallowed_methods, reason = "the bench builds the handler that it needs")]
fn puppet() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let folder = exe.ancestors().nth(2).unwrap();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--locked", "--package", "puppet-handler", "--bins"]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    let built = build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).status().unwrap();
    assert!(built.success(), "the puppet cannot be built");
    folder.join("puppet-handler")
}

fn config() -> Config {
    let grace = format!("{}ms", GRACE.as_millis());
    let words = ["runpod-worker", "run", "--http-bind", "none", "--cancel-grace", &grace, "--"].map(str::to_owned);
    let words = words.into_iter().chain([puppet().to_string_lossy().into_owned()]);
    let Verb::Run(args) = Cli::parse_from(words).command else { unreachable!("it says run") };
    let mut config = Config::load(&args.run, &ProcessEnvironment).unwrap();
    // Crashing is what is measured.
    config.policy.crash_limit = usize::MAX;
    config
}

#[tokio::main]
async fn main() {
    let runs = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(RUNS);
    let (jobs, queued) = mpsc::channel(4);
    let (stops, stopping) = mpsc::channel(4);
    let (heard, hearing) = mpsc::channel(64);
    let queue = Arc::new(Queue { jobs: Mutex::new(queued), stops: Mutex::new(stopping), heard });
    let (started, control) = oneshot::channel();
    let worker = tokio::spawn(app::run(config(), queue, Vec::new(), started));
    let control = control.await.unwrap();
    let mut bench = Bench { jobs, stops, heard: hearing, control, count: 0 };

    println!("{runs} runs each; median / 90 % / longest; the grace of {GRACE:?} is taken off");
    let none = Duration::ZERO;
    bench.measure("cancel, the job yields", runs, r#"{"do":"check_cancel"}"#, End::Cancel, none).await;
    bench.measure("cancel, the job is deaf", runs, r#"{"do":"spin"}"#, End::Cancel, GRACE).await;
    bench.measure("deadline, the job yields", runs, r#"{"do":"check_cancel"}"#, End::Deadline, none).await;
    bench.measure("deadline, the job is deaf", runs, r#"{"do":"spin"}"#, End::Deadline, GRACE).await;
    bench.measure("the process is killed from outside", runs, r#"{"do":"spin"}"#, End::Kill, none).await;

    bench.control.events.send(Event::Drain(DrainCause::Signal)).await.unwrap();
    let code = worker.await.unwrap().unwrap();
    assert_eq!(code, 0, "the worker did not end well");
}
