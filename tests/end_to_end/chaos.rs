//! Random jobs, an endpoint whose fault script strikes at random, a proxy with bad days, handlers, workers and endpoints that
//! are killed, workers that hand their jobs back, two workers with one id: no job is lost, none ends twice or differently, the
//! worker's memory does not grow, and secrets that handlers print are masked everywhere.
//!
//! `CHAOS_SEED` replays the decisions (what is submitted, when something is killed, what proxy and endpoint do to the n-th
//! request); their interleaving remains the machine's. `CHAOS_SECONDS` makes it longer; `make soak` does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use end_to_end_tests::{Endpoint, FaultyProxy, TERMINAL, Worker, WorkerOptions, binary, eventually, worker_env};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::secrets::{assert_clean, blab, planted_variable};

const FLAGS: [&str; 12] = [
    "--slots",
    "3",
    "--prefetch",
    "1",
    "--job-timeout",
    "30s",
    "--cancel-grace",
    "300ms",
    "--drain-grace",
    "2s",
    "--flush-grace",
    "10s",
];
/// Jobs that may be open at the same time.
const OPEN: usize = 40;
/// Percent of requests that something happens to.
const FAULTS: u8 = 12;
/// Growth that is not a leak: caches and pools fill with use.
const MORE_KIB: u64 = 24 * 1024;
const MORE_FILES: usize = 24;
/// A handler may be killed this often before the worker counts as being in a crash loop.
const KILLS: usize = 4;

/// What a job is to end as when nothing happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Output,
    Text(usize),
    Error(&'static str),
    /// It runs until it is cancelled.
    Cancelled,
}

#[derive(Debug)]
struct Job {
    end: End,
    submitted: Instant,
    ended: Option<(Instant, Value)>,
    cancelled: bool,
    /// Times that its worker or its endpoint was taken away from under it.
    abandoned: u32,
}

struct Chaos {
    rng: Rng,
    /// Where the fault script lies.
    _script: TempDir,
    endpoint: Endpoint,
    proxy: FaultyProxy,
    worker: Worker,
    jobs: BTreeMap<String, Job>,
    handler_deaths: Vec<Instant>,
    kills_of_this_worker: usize,
    worker_restarts: usize,
    endpoint_restarts: usize,
    twins: usize,
    handed_back: usize,
}

/// A worker with the one id that is used here. Each finds what the one before it in this spool could not deliver.
fn start_worker(proxy: &FaultyProxy, endpoint: &Endpoint, spool: &str) -> Worker {
    let mut env = worker_env(&format!("{}/v2/test", proxy.base()), "worker-1");
    let spool = endpoint.folder().join(spool);
    env.push(planted_variable());
    env.push(("RUNPOD_WORKER_SPOOL_DIR".to_owned(), spool.to_string_lossy().into_owned()));
    Worker::start_with(env, &binary("puppet-handler"), WorkerOptions::flags(&FLAGS))
}

impl Chaos {
    async fn start(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("faults.toml");
        std::fs::write(&script, format!("seed = {seed}\n{}", include_str!("chaos.toml"))).unwrap();
        let endpoint = Endpoint::start_durable(&["--lease", "5s", "--faults", &script.to_string_lossy()]).await;
        let target = endpoint.base.trim_end_matches("/v2").to_owned();
        let proxy = FaultyProxy::start(&target, seed, FAULTS).await;
        let worker = start_worker(&proxy, &endpoint, "spool");
        Self {
            rng: Rng::with_seed(seed),
            _script: folder,
            endpoint,
            proxy,
            worker,
            jobs: BTreeMap::new(),
            handler_deaths: Vec::new(),
            kills_of_this_worker: 0,
            worker_restarts: 0,
            endpoint_restarts: 0,
            twins: 0,
            handed_back: 0,
        }
    }

    async fn submit(&mut self) {
        let (input, end) = match self.rng.u8(0..14) {
            0..=2 => (json!({"do": "ok"}), End::Output),
            3..=5 => (json!({"do": "sleep_ms", "ms": self.rng.u64(0..400)}), End::Output),
            6 => (json!({"do": "stream", "n": self.rng.u64(1..20)}), End::Output),
            7 => (json!({"do": "progress", "n": self.rng.u64(1..50)}), End::Output),
            8 => {
                let bytes = self.rng.usize(10_000..300_000);
                (json!({"do": "big_output", "bytes": bytes}), End::Text(bytes))
            }
            9 => (json!({"do": "error"}), End::Error("inference_error")),
            10 => (json!({"do": "panic"}), End::Error("inference_error")),
            11 => (json!({"do": "check_cancel"}), End::Cancelled),
            12 => (json!({"do": "sleep_ms", "ms": self.rng.u64(2500..4000)}), End::Output),
            _ => (Value::Null, End::Error("inference_error")),
        };
        let request = if input.is_null() { blab(self.rng.u32(..)) } else { json!({ "input": input }) };
        self.submit_request(request, end).await;
    }

    async fn submit_request(&mut self, request: Value, end: End) -> String {
        let id = self.endpoint.client().submit_request(request).await;
        let job = Job { end, submitted: Instant::now(), ended: None, cancelled: false, abandoned: 0 };
        assert!(self.jobs.insert(id.clone(), job).is_none(), "an id was given twice");
        id
    }

    fn open(&self) -> Vec<String> {
        self.jobs.iter().filter(|(_, job)| job.ended.is_none()).map(|(id, _)| id.clone()).collect()
    }

    /// Notes which jobs have ended, and cancels those that end no other way.
    async fn look(&mut self) {
        let client = self.endpoint.client();
        for id in self.open() {
            let status = client.status(&id).await;
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if TERMINAL.contains(&status["status"].as_str().unwrap_or_default()) {
                job.ended = Some((Instant::now(), status));
            } else if job.end == End::Cancelled && !job.cancelled && status["status"] == "IN_PROGRESS" {
                job.cancelled = true;
                client.cancel(&id).await;
            }
        }
    }

    /// Kills the handler with one of two signals.
    async fn kill_handler(&mut self) {
        let Ok(reply) = reqwest::get(format!("{}/health", self.worker.http)).await else { return };
        let health: Value = reply.json().await.unwrap_or_default();
        let pid = health["worker"]["processes"][0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { return };
        let signal = [Signal::KILL, Signal::ABORT][self.rng.usize(0..2)];
        self.handler_deaths.push(Instant::now());
        self.kills_of_this_worker += 1;
        let _ = kill_process(pid, signal);
    }

    /// Ends the worker and starts it again under the same name.
    async fn restart_worker(&mut self, signal: Signal) {
        self.look().await;
        let before = self.proxy.handed_back();
        // It answers once it listens to signals; before, SIGTERM ends it as it ends any program.
        self.worker.health().await;
        self.worker.daemon.signal(signal);
        let status = self.worker.daemon.wait(Duration::from_secs(30));
        assert!(signal == Signal::KILL || status.code() == Some(0), "{status:?}\n{}", self.worker.daemon.log());
        // A job that was handed back has lost nothing.
        let after = self.proxy.handed_back();
        let was_handed_back = |id: &str| after.get(id) > before.get(id);
        self.handed_back += after.keys().filter(|id| was_handed_back(id)).count();
        self.abandon_open_jobs(was_handed_back);
        assert_clean("a worker's log", &self.worker.daemon.log());
        self.worker = start_worker(&self.proxy, &self.endpoint, "spool");
        self.kills_of_this_worker = 0;
        self.worker_restarts += 1;
    }

    /// Ends the worker while it runs jobs that outlive its drain grace, until it has handed one back: the proxy may have lost the
    /// answer that the jobs were in, or every request to hand one back.
    async fn hand_jobs_back(&mut self) {
        let before = self.handed_back;
        for _ in 0..5 {
            let mut long = Vec::new();
            for _ in 0..3 {
                long.push(self.submit_request(json!({"input": {"do": "sleep_ms", "ms": 6000}}), End::Output).await);
            }
            let begin = Instant::now();
            loop {
                assert!(begin.elapsed() < Duration::from_secs(60), "none of {long:?} runs");
                let client = self.endpoint.client();
                if client.status(&long[0]).await["status"] == "IN_PROGRESS" {
                    break;
                }
                self.look().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.restart_worker(Signal::TERM).await;
            if self.handed_back > before {
                return;
            }
        }
        panic!("five workers were ended while they ran a long job, and none has handed one back");
    }

    /// Ends the endpoint and starts it again on the same data.
    async fn restart_endpoint(&mut self, signal: Signal) {
        self.look().await;
        self.endpoint.restart(signal).await;
        // Each may have been in an answer that never left.
        self.abandon_open_jobs(|_| false);
        self.endpoint_restarts += 1;
    }

    fn abandon_open_jobs(&mut self, is_safe: impl Fn(&str) -> bool) {
        let open = self.jobs.iter_mut().filter(|(id, job)| job.ended.is_none() && !is_safe(id));
        open.for_each(|(_, job)| job.abandoned += 1);
    }

    /// Starts a second worker with the same id, as in another container, and kills it after a while. The endpoint serves one of
    /// the two; should that be the second, its jobs are abandoned.
    async fn run_twin(&mut self) {
        let mut twin = start_worker(&self.proxy, &self.endpoint, "twin");
        tokio::time::sleep(Duration::from_millis(self.rng.u64(1000..5000))).await;
        self.look().await;
        twin.daemon.signal(Signal::KILL);
        twin.daemon.wait(Duration::from_secs(30));
        if twin.daemon.log().contains("Started.") {
            self.abandon_open_jobs(|_| false);
        }
        assert_clean("a worker's log", &twin.daemon.log());
        self.twins += 1;
    }

    async fn rage(&mut self, time: Duration, restarts: bool) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            for _ in 0..self.rng.u8(0..4) {
                if self.open().len() < OPEN {
                    self.submit().await;
                }
            }
            self.look().await;
            match self.rng.u16(0..1000) {
                0..15 if self.kills_of_this_worker < KILLS => self.kill_handler().await,
                100..106 if restarts => self.restart_worker(Signal::KILL).await,
                200..204 if restarts => self.restart_worker(Signal::TERM).await,
                300..304 if restarts => self.restart_endpoint(Signal::KILL).await,
                400..402 if restarts => self.restart_endpoint(Signal::TERM).await,
                500..503 if restarts => self.run_twin().await,
                _ => {}
            }
            assert!(self.worker.daemon.is_running(), "the worker ended by itself:\n{}", self.worker.daemon.log());
            tokio::time::sleep(Duration::from_millis(self.rng.u64(20..120))).await;
        }
    }

    /// Waits until every job has ended and everything is delivered.
    async fn settle(&mut self) {
        let begin = Instant::now();
        while !self.open().is_empty() {
            let open = self.open();
            assert!(begin.elapsed() < Duration::from_secs(90), "lost: {open:?}\n{}", self.worker.daemon.log());
            self.look().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        eventually("the worker to hold nothing", || async {
            let health = self.worker.health().await;
            let jobs =
                (&health["jobs"]["inProgress"], &health["jobs"]["inQueue"], &health["worker"]["jobs"]["delivering"]);
            (jobs == (&json!(0), &json!(0), &json!(0))).then_some(())
        })
        .await;
    }

    /// Memory in KiB and open files of the worker.
    fn size(&self) -> (u64, usize) {
        let folder = format!("/proc/{}", self.worker.daemon.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib = line.trim().trim_end_matches(" kB").parse().unwrap();
        (kib, std::fs::read_dir(format!("{folder}/fd")).unwrap().count())
    }

    /// Whether a handler was killed while this job was open.
    fn was_near_a_death(&self, job: &Job) -> bool {
        let end = job.ended.as_ref().map_or_else(Instant::now, |(at, _)| *at);
        self.handler_deaths.iter().any(|death| (job.submitted..=end).contains(death))
    }

    fn judge(&self, id: &str, job: &Job) {
        let (_, document) = job.ended.as_ref().unwrap();
        let (lost, stops) = (self.proxy.has_lost(id), self.proxy.stops(id));
        let context = || format!("{id}: {job:?}, lost by the proxy: {lost}, stopped by the script: {stops} times");
        match document["status"].as_str().unwrap() {
            "COMPLETED" => match job.end {
                End::Output => assert_eq!(document["output"]["job"], *id, "{}", context()),
                End::Text(bytes) => assert_eq!(document["output"].as_str().map(str::len), Some(bytes)),
                End::Error(_) | End::Cancelled => panic!("it cannot complete: {}", context()),
            },
            "CANCELLED" => assert!(job.cancelled, "{}", context()),
            "FAILED" => {
                let text = document["error"].as_str().unwrap_or_default();
                assert_clean("a job's error", text);
                let error: Value = serde_json::from_str(text).unwrap_or_default();
                let kind = error["error_type"].as_str().unwrap_or_default();
                let as_asked = matches!(job.end, End::Error(expected) if expected == kind);
                let died = matches!(kind, "crashed" | "infra") && self.was_near_a_death(job);
                // The platform hands a job out twice. That is not enough when it was taken away from its worker both times.
                let twice = job.abandoned + stops + u32::from(lost) >= 2;
                let given_up = text.contains("timed out after 1 retries") && twice;
                assert!(as_asked || died || given_up, "{}", context());
            }
            other => panic!("{other}: {}", context()),
        }
    }
}

/// What two results of one job must have in common.
fn essence(result: &Value) -> Value {
    if let Some(text) = result["error"].as_str() {
        let error: Value = serde_json::from_str(text).unwrap_or_default();
        return json!({"error": error["error_type"]});
    }
    match &result["output"] {
        Value::Object(output) => json!({"job": output["job"]}),
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_lost_and_no_result_contradicted_under_random_faults() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let random =
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.subsec_nanos().into());
    let seed = number("CHAOS_SEED").unwrap_or_else(random);
    let seconds = number("CHAOS_SECONDS").unwrap_or(40);
    eprintln!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds} replays this run");
    let mut chaos = Chaos::start(seed).await;

    chaos.rage(Duration::from_secs(seconds / 4), true).await;
    // Each of these happens under load in every run, however short.
    chaos.restart_endpoint(Signal::KILL).await;
    chaos.kill_handler().await;
    chaos.restart_worker(Signal::KILL).await;
    chaos.run_twin().await;
    chaos.rage(Duration::from_secs(seconds / 4), true).await;
    // From here on one worker lives to the end, so that it can be measured.
    chaos.hand_jobs_back().await;
    chaos.rage(Duration::from_secs(seconds / 8), false).await;
    chaos.settle().await;
    let (memory_before, files_before) = chaos.size();
    chaos.rage(Duration::from_secs(seconds * 3 / 8), false).await;
    chaos.proxy.set_faults(0);
    chaos.settle().await;

    assert_clean("a worker's log", &chaos.worker.daemon.log());
    assert_clean("/health", &chaos.worker.health().await.to_string());
    assert_clean("/metrics", &chaos.worker.metrics().await);
    let (memory, files) = chaos.size();
    let (passed, hurt) = chaos.proxy.traffic();
    eprintln!(
        "{} jobs, {passed} requests of which {hurt} were hurt, {} handlers killed, {} workers and {} endpoints started again, \
         {} twins, {} jobs handed back; worker {memory_before} → {memory} KiB, {files_before} → {files} files",
        chaos.jobs.len(),
        chaos.handler_deaths.len(),
        chaos.worker_restarts,
        chaos.endpoint_restarts,
        chaos.twins,
        chaos.handed_back,
    );
    assert!(memory <= memory_before + MORE_KIB, "memory grew from {memory_before} to {memory} KiB");
    assert!(files <= files_before + MORE_FILES, "open files grew from {files_before} to {files}");
    assert!(hurt > 0, "the proxy did nothing");
    let struck = chaos.endpoint.daemon.log().matches("scripted fault ").count();
    eprintln!("{struck} scripted faults since the endpoint was last started");
    assert!(struck > 0, "the script did nothing");

    let client = chaos.endpoint.client();
    for (id, job) in &chaos.jobs {
        chaos.judge(id, job);
        let (_, first) = job.ended.as_ref().unwrap();
        assert_eq!(&client.status(id).await, first, "{id} has changed after its end");
    }
    // A result of a cancelled job that the script hands out once more does not count.
    let counts = |id: &String| chaos.jobs[id].ended.as_ref().is_some_and(|(_, job)| job["status"] != "CANCELLED");
    for (id, finals) in chaos.proxy.finals().into_iter().filter(|(id, _)| counts(id)) {
        let essences: Vec<Value> = finals.iter().map(essence).collect();
        assert!(essences.windows(2).all(|pair| pair[0] == pair[1]), "{id} has contradicting results: {essences:?}");
    }
    let health = client.health().await;
    assert_eq!((&health["jobs"]["inQueue"], &health["jobs"]["inProgress"]), (&json!(0), &json!(0)));
}
