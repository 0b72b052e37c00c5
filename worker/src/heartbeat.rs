//! The heartbeat: tells the platform which jobs this worker holds, from a thread of its own that nothing else can hold up.
//! It also watches the dispatcher: a heartbeat that outlives it would keep jobs from being given to another worker.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::base::{ClientError, Retry, Secret, UrlTemplate, VERSION, http_client, retry_after, url};
use crate::metrics::{HeartbeatOutcome, Metrics};
use crate::queue::{RequestError, request_error};
use runpod_worker_core::{JobId, Snapshot};

/// Longest list of job ids, as in RunPod's SDK.
const MAX_IDS_LEN: usize = 65_535;

/// Longest URL that the HTTP library sends.
const MAX_URL_LEN: usize = 65_000;

/// Further attempts after 429 and 5xx, as in RunPod's SDK.
const RETRIES: usize = 3;

/// Pauses between them grow from about this …
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// … to this.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(4);

/// The unhealthy report is given up after this time, as in RunPod's SDK: the worker is about to exit.
const REPORT_LIMIT: Duration = Duration::from_secs(2);

/// A report waits this long for the ping that is on its way.
const TURN_LIMIT: Duration = Duration::from_millis(500);

/// Longest reason in an unhealthy report, in characters.
const MAX_REASON: usize = 256;

/// The dispatcher is looked at this often …
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// … and is dead when this many looks in a row saw no beat. Looks are counted, not seconds: a process that was stopped
/// and goes on has missed time but no look.
const WATCH_LIMIT: u32 = 60;

/// The log is written by a thread of its own, and an abort does not wait for it.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Where and how often to ping.
#[derive(Clone, Debug)]
pub struct HeartbeatConfig {
    /// `RUNPOD_WEBHOOK_PING`.
    pub url: UrlTemplate,
    /// Stands for `$ID`, should the template have it.
    pub worker_id: String,
    /// `RUNPOD_PING_INTERVAL`.
    pub interval: Duration,
    /// Sent raw as `Authorization`.
    pub key: Secret,
}

/// A heartbeat that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// No HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No thread or no runtime for it.
    #[error("the heartbeat thread cannot start ({0}): raise the container's limit on processes")]
    Thread(#[from] io::Error),
}

/// The dispatcher's sign of life. It must beat at least every few seconds, also when nothing happens.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The dispatcher is alive now.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has beaten.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How the pings went, for health and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatStats {
    /// Time since the platform last answered a ping with a success.
    pub since_last_ok: Option<Duration>,
    /// The same, or the time since the first ping was due when there was no success; `None` without a heartbeat.
    pub age: Option<Duration>,
    /// Pings answered with a success.
    pub sent: u64,
    /// Pings that failed, all their attempts included.
    pub failures: u64,
    /// Of those, since the last success.
    pub failures_in_a_row: u64,
}

#[derive(Debug, Default)]
struct Record {
    begun: Option<Instant>,
    last_ok: Option<Instant>,
    stats: HeartbeatStats,
    /// Kind of the last failure; `None` after a success.
    failing: Option<(&'static str, u16)>,
}

/// Shows how the pings go, also after the heartbeat has ended.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatMonitor(Arc<Mutex<Record>>);

impl HeartbeatMonitor {
    /// How the pings went.
    pub fn stats(&self) -> HeartbeatStats {
        let record = lock(&self.0);
        let since_last_ok = record.last_ok.map(|at| at.elapsed());
        let age = since_last_ok.or_else(|| record.begun.map(|at| at.elapsed()));
        HeartbeatStats { since_last_ok, age, ..record.stats }
    }
}

/// The running heartbeat. Dropping it stops the pings.
#[derive(Debug)]
pub struct Heartbeat {
    record: Arc<Mutex<Record>>,
    reports: mpsc::Sender<Unhealthy>,
    shutdown: CancellationToken,
    ended: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Unhealthy {
    check: String,
    reason: String,
}

impl Unhealthy {
    fn new(check: &str, reason: &str) -> Self {
        Self { check: check.to_owned(), reason: reason.chars().take(MAX_REASON).collect() }
    }
}

/// Tells the platform that this worker cannot work, before there is a heartbeat. Takes two seconds at most; a report that
/// does not arrive is logged.
pub async fn report_once(config: &HeartbeatConfig, check: &str, reason: &str) {
    let (_, snapshot) = watch::channel(Snapshot::default());
    match Pinger::new(config, snapshot, Arc::default(), Arc::default()) {
        Ok(pinger) => pinger.report(&Unhealthy::new(check, reason)).await,
        Err(error) => tracing::warn!(%error, check, "the unhealthy report cannot be sent"),
    }
}

impl Heartbeat {
    /// Tells the platform that this worker cannot work. Returns at once; the report has two seconds, which
    /// [`Heartbeat::stop`] waits for.
    pub fn report_unhealthy(&self, check: &str, reason: &str) {
        let report = Unhealthy::new(check, reason);
        if self.reports.try_send(report).is_err() {
            tracing::warn!(check, "an unhealthy report was not sent: others are waiting, or the heartbeat has ended");
        }
    }

    /// A window on how the pings go.
    pub fn monitor(&self) -> HeartbeatMonitor {
        HeartbeatMonitor(Arc::clone(&self.record))
    }

    /// Ends the pings and waits for reports on their way, for three seconds at most.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if timeout(REPORT_LIMIT + Duration::from_secs(1), &mut self.ended).await.is_err() {
            tracing::warn!("the heartbeat did not end in time");
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Starts the heartbeat thread. The first ping is sent at once. Without `config` there are no pings, only the watch over
/// the dispatcher, which aborts the process when `pulse` has not beaten for a minute.
///
/// # Errors
/// When the client or the thread cannot be made.
pub fn spawn(
    config: Option<HeartbeatConfig>,
    snapshot: watch::Receiver<Snapshot>,
    pulse: Pulse,
    metrics: Arc<Metrics>,
) -> Result<Heartbeat, HeartbeatError> {
    let record: Arc<Mutex<Record>> = Arc::default();
    let shutdown = CancellationToken::new();
    let (reports, inbox) = mpsc::channel(4);
    let (ending, ended) = oneshot::channel();
    let pinger = match config {
        Some(config) => {
            lock(&record).begun = Some(Instant::now());
            Some(Pinger::new(&config, snapshot, Arc::clone(&record), metrics)?)
        }
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = shutdown.clone();
    thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        runtime.block_on(run(pinger.as_ref(), inbox, &pulse, &stop));
        // Whoever waited for it may be gone.
        let _ = ending.send(());
    })?;
    Ok(Heartbeat { record, reports, shutdown, ended })
}

async fn run(pinger: Option<&Pinger>, inbox: mpsc::Receiver<Unhealthy>, pulse: &Pulse, stop: &CancellationToken) {
    let pings = async {
        match pinger {
            Some(pinger) => pinger.ping_for_ever().await,
            None => std::future::pending().await,
        }
    };
    let work = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = pings => {}
            () = until_silent(pulse) => {
                tracing::error!("the dispatcher has been stuck for a minute; aborting, so that its jobs are given to others");
                sleep(LAST_WORDS).await;
                std::process::abort();
            }
        }
    };
    tokio::join!(work, send_reports(pinger, inbox, stop));
}

/// Ends when the dispatcher has not given a sign of life for the whole limit.
async fn until_silent(pulse: &Pulse) {
    let mut last = pulse.count();
    let mut silent = 0;
    while silent < WATCH_LIMIT {
        sleep(WATCH_INTERVAL).await;
        let now = pulse.count();
        silent = if now == last { silent + 1 } else { 0 };
        last = now;
    }
}

/// Sends reports until shutdown; what was given before it is still sent.
async fn send_reports(pinger: Option<&Pinger>, mut inbox: mpsc::Receiver<Unhealthy>, stop: &CancellationToken) {
    loop {
        let report = tokio::select! {
            biased;
            report = inbox.recv() => report,
            () = stop.cancelled() => None,
        };
        match (report, pinger) {
            (Some(report), Some(pinger)) => pinger.report(&report).await,
            (Some(_), None) => {}
            (None, _) => return,
        }
    }
}

struct Pinger {
    client: Client,
    url: String,
    interval: Duration,
    snapshot: watch::Receiver<Snapshot>,
    record: Arc<Mutex<Record>>,
    metrics: Arc<Metrics>,
    /// Held while a ping or a report is on its way.
    turn: tokio::sync::Mutex<()>,
    reported: AtomicBool,
}

impl Pinger {
    fn new(
        config: &HeartbeatConfig,
        snapshot: watch::Receiver<Snapshot>,
        record: Arc<Mutex<Record>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ClientError> {
        let client = http_client(&config.key, None, Policy::limited(10))?;
        let url = config.url.for_worker(&config.worker_id);
        let (turn, reported) = (tokio::sync::Mutex::default(), AtomicBool::default());
        Ok(Self { client, url, interval: config.interval, snapshot, record, metrics, turn, reported })
    }

    async fn ping_for_ever(&self) {
        loop {
            let turn = self.turn.lock().await;
            if !self.has_left() {
                let result = self.ping().await;
                self.note(result);
            }
            drop(turn);
            sleep(self.interval).await;
        }
    }

    /// The platform knows that this worker cannot work, and nothing needs its lease any more. An ordinary ping would say
    /// that all is well again.
    fn has_left(&self) -> bool {
        self.reported.load(Ordering::Relaxed) && self.snapshot.borrow().held.is_empty()
    }

    async fn ping(&self) -> Result<(), RequestError> {
        let mut retry = Retry::new(RETRY_PAUSE, RETRY_PAUSE_MAX);
        let mut attempts = 0;
        loop {
            // Looked up for each attempt: a job that has ended meanwhile must not be claimed again.
            let url = ping_url(&self.url, &self.snapshot.borrow().held);
            let limit = self.interval * 2;
            let response = self.client.get(url).timeout(limit).send().await.map_err(request_error)?;
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            let retriable = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            if !retriable || attempts == RETRIES {
                return Err(RequestError::from_status(status.as_u16()));
            }
            attempts += 1;
            // A pause longer than the interval would be a missed ping.
            sleep(retry.next(retry_after(response.headers())).min(self.interval)).await;
        }
    }

    fn note(&self, result: Result<(), RequestError>) {
        let mut record = lock(&self.record);
        match result {
            Ok(()) => {
                self.metrics.heartbeat(HeartbeatOutcome::Ok);
                record.last_ok = Some(Instant::now());
                record.stats.sent += 1;
                record.stats.failures_in_a_row = 0;
                if record.failing.take().is_some() {
                    tracing::info!("heartbeats arrive again");
                }
            }
            Err(error) => {
                self.metrics.heartbeat(HeartbeatOutcome::Failed);
                record.stats.failures += 1;
                record.stats.failures_in_a_row += 1;
                if record.failing.replace(error.kind()) != Some(error.kind()) {
                    tracing::warn!(%error, "heartbeats do not arrive; the platform may give the jobs to another worker");
                }
            }
        }
    }

    async fn report(&self, report: &Unhealthy) {
        self.reported.store(true, Ordering::Relaxed);
        // A ping on its way must not overtake the report; one that is stuck does not hold it up.
        let _turn = timeout(TURN_LIMIT, self.turn.lock()).await;
        let mut target = self.url.clone();
        url::append(&mut target, "status", "unhealthy");
        url::append(&mut target, "check", &report.check);
        url::append(&mut target, "reason", &report.reason);
        url::append(&mut target, "runpod_version", VERSION);
        let answer = self.client.get(target).timeout(REPORT_LIMIT).send().await.map_err(request_error);
        if let Err(error) = answer {
            tracing::warn!(%error, check = report.check, "the unhealthy report did not arrive");
        }
    }
}

/// `job_id` lists the jobs that are held and is absent when there are none.
fn ping_url(base: &str, held: &[JobId]) -> String {
    let mut tail = String::new();
    url::append(&mut tail, "runpod_version", VERSION);
    let room = MAX_URL_LEN.saturating_sub(base.len() + "&job_id=".len() + tail.len());
    let mut ids = String::new();
    let mut escaped = 0;
    for id in held {
        escaped += url::escaped_len(id.as_str()) + url::escaped_len(",");
        if ids.len() + 1 + id.as_str().len() > MAX_IDS_LEN || escaped > room {
            break;
        }
        if !ids.is_empty() {
            ids.push(',');
        }
        ids.push_str(id.as_str());
    }
    let mut target = base.to_owned();
    if !ids.is_empty() {
        url::append(&mut target, "job_id", &ids);
    }
    url::append(&mut target, "runpod_version", VERSION);
    target
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
