//! Sends pings and unhealthy reports.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use runpod_worker_core::{JobId, Snapshot};
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};

use super::HeartbeatConfig;
use super::limits::{
    MAX_IDS_LEN, MAX_MODEL, MAX_REASON, MAX_URL_LEN, MIN_INTERVAL, REPORT_TIMEOUT, RETRIES, RETRY_PAUSE,
    RETRY_PAUSE_MAX, TURN_TIMEOUT,
};
use super::record::Record;
use crate::base::{ClientError, Retry, VERSION, http_client, retry_after, url};
use crate::metrics::{HeartbeatOutcome, Metrics};
use crate::queue::{Extension, Extensions, Outage, RequestError, ping_interval, request_error};

/// A report that this worker cannot work.
#[derive(Debug)]
pub(super) struct UnhealthyReport {
    check: String,
    reason: String,
}

impl UnhealthyReport {
    /// The fitness check that failed, or the name of what else is wrong, and the reason, which is cut if it is too long.
    pub(super) fn new(check: &str, reason: &str) -> Self {
        Self { check: check.to_owned(), reason: reason.chars().take(MAX_REASON).collect() }
    }
}

pub(super) struct Pinger {
    client: Client,
    url: String,
    interval: Duration,
    /// The longest interval that the lease of the queue permits, if the queue has named it.
    permitted: parking_lot::Mutex<Option<Duration>>,
    snapshot: watch::Receiver<Snapshot>,
    record: Record,
    metrics: Arc<Metrics>,
    outage: Outage,
    /// Held while a ping or a report is in flight.
    turn: Mutex<()>,
    reported: AtomicBool,
    extensions: Extensions,
}

impl Pinger {
    pub(super) fn new(
        config: &HeartbeatConfig,
        snapshot: watch::Receiver<Snapshot>,
        record: Record,
        metrics: Arc<Metrics>,
        outage: Outage,
    ) -> Result<Self, ClientError> {
        let client = http_client(&config.key, None, Policy::limited(10))?;
        let url = config.url.for_worker(&config.worker_id);
        let (turn, reported) = (Mutex::default(), AtomicBool::default());
        let (interval, permitted) = (config.interval, parking_lot::Mutex::default());
        let extensions = config.extensions.clone();
        Ok(Self { client, url, interval, permitted, snapshot, record, metrics, outage, turn, reported, extensions })
    }

    pub(super) async fn ping_for_ever(&self) {
        loop {
            let turn = self.turn.lock().await;
            let mut is_away = false;
            if !self.has_left() {
                let result = self.ping().await;
                is_away = result.as_ref().is_err_and(RequestError::is_outage);
                let outcome = if result.is_ok() { HeartbeatOutcome::Ok } else { HeartbeatOutcome::Failed };
                self.metrics.heartbeat(outcome);
                self.record.note(&result);
            }
            drop(turn);
            let interval = self.interval();
            if is_away {
                // The end of an outage does not wait for the next interval: the leases of the jobs may be about to end.
                let _ = timeout(interval, self.outage.pause(interval)).await;
            } else {
                sleep(interval).await;
            }
        }
    }

    /// The configured interval, or a shorter one that the queue needs.
    fn interval(&self) -> Duration {
        self.permitted.lock().map_or(self.interval, |permitted| self.interval.min(permitted.max(MIN_INTERVAL)))
    }

    fn note_permitted(&self, permitted: Option<Duration>) {
        let before = std::mem::replace(&mut *self.permitted.lock(), permitted);
        if permitted != before && permitted.is_some_and(|permitted| permitted < self.interval) {
            tracing::info!(
                configured = ?self.interval,
                used = ?self.interval(),
                "The lease of the queue is short: heartbeats are sent more often than RUNPOD_PING_INTERVAL says."
            );
        }
    }

    /// Whether the platform knows that this worker cannot work and no job needs its lease any more. An ordinary ping would
    /// then withdraw the report.
    fn has_left(&self) -> bool {
        self.reported.load(Ordering::Relaxed) && self.snapshot.borrow().held.is_empty()
    }

    /// Names all jobs that are held, in as many requests as they need.
    async fn ping(&self) -> Result<(), RequestError> {
        let mut left = self.snapshot.borrow().held.to_vec();
        loop {
            let listed = self.ping_with(&mut left).await?;
            left.drain(..listed);
            if left.is_empty() {
                return Ok(());
            }
        }
    }

    /// Names as many of these jobs as one request can; returns how many.
    async fn ping_with(&self, left: &mut Vec<JobId>) -> Result<usize, RequestError> {
        let mut retry = Retry::new(RETRY_PAUSE, RETRY_PAUSE_MAX);
        let mut attempts = 0;
        loop {
            // Checked for each attempt: a job that has ended in between must not be claimed again.
            {
                let snapshot = self.snapshot.borrow();
                let held: HashSet<&JobId> = snapshot.held.iter().collect();
                left.retain(|job| held.contains(job));
            }
            let (url, listed) = ping_url(&self.url, left, &self.model());
            let limit = self.interval() * 2;
            let sent = self.extensions.sign(self.client.get(url)).timeout(limit).send().await;
            match &sent {
                Ok(response) if !response.status().is_server_error() => self.outage.answered(),
                Ok(_) | Err(_) => self.outage.failed(),
            }
            let response = sent.map_err(request_error)?;
            let status = response.status();
            self.extensions.note(status, response.headers());
            if status.is_success() {
                self.note_permitted(ping_interval(response.headers()));
                return Ok(listed);
            }
            let retriable = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            if !retriable || attempts == RETRIES {
                return Err(RequestError::from_status(status.as_u16()));
            }
            attempts += 1;
            // A pause longer than the interval would be a missed ping.
            sleep(retry.next(retry_after(response.headers())).min(self.interval())).await;
        }
    }

    /// The handler and its version as parameters, if they are known and the queue wants them.
    fn model(&self) -> Vec<(&'static str, String)> {
        let manifest = self.snapshot.borrow().manifest.clone().filter(|_| self.extensions.has(Extension::Model));
        let cut = |text: &str| text.chars().take(MAX_MODEL).collect();
        manifest
            .map(|manifest| vec![("model", cut(&manifest.name)), ("model_version", cut(&manifest.version))])
            .unwrap_or_default()
    }

    pub(super) async fn report(&self, report: &UnhealthyReport) {
        self.reported.store(true, Ordering::Relaxed);
        // A ping in flight must not overtake the report; one that hangs must not delay it for long.
        let _turn = timeout(TURN_TIMEOUT, self.turn.lock()).await;
        let mut target = self.url.clone();
        url::append(&mut target, "status", "unhealthy");
        url::append(&mut target, "check", &report.check);
        url::append(&mut target, "reason", &report.reason);
        url::append(&mut target, "runpod_version", VERSION);
        let request = self.extensions.sign(self.client.get(target)).timeout(REPORT_TIMEOUT);
        let answer = request.send().await.map_err(request_error);
        if let Err(error) = answer {
            tracing::warn!(%error, check = report.check, "The unhealthy report did not arrive.");
        }
    }
}

/// The URL of one ping, and how many jobs it names. `job_id` lists them, as many as fit, and is absent when there are none. `more`
/// are parameters that follow.
fn ping_url(base: &str, held: &[JobId], more: &[(&str, String)]) -> (String, usize) {
    let append_rest = |target: &mut String| {
        url::append(target, "runpod_version", VERSION);
        for (name, value) in more {
            url::append(target, name, value);
        }
    };
    let mut tail = String::new();
    append_rest(&mut tail);
    let room = MAX_URL_LEN.saturating_sub(base.len() + "&job_id=".len() + tail.len());
    let mut ids = String::new();
    let (mut escaped, mut listed) = (0, 0);
    for id in held {
        escaped += url::escaped_len(id.as_str()) + url::escaped_len(",");
        if ids.len() + 1 + id.as_str().len() > MAX_IDS_LEN || escaped > room {
            break;
        }
        if !ids.is_empty() {
            ids.push(',');
        }
        ids.push_str(id.as_str());
        listed += 1;
    }
    let mut target = base.to_owned();
    if !ids.is_empty() {
        url::append(&mut target, "job_id", &ids);
    }
    append_rest(&mut target);
    // An id that fits into no request must not keep the others from being named.
    (target, if held.is_empty() { 0 } else { listed.max(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_between_two_ids() {
        let id = |n: usize| JobId::from(format!("{n:04}-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-u1"));
        let held: Vec<JobId> = (0..5000).map(id).collect();
        let model = [("model", "ü".repeat(MAX_MODEL)), ("model_version", "1".to_owned())];
        let (target, count) = ping_url("http://h/ping", &held, &model);
        assert!(target.len() <= MAX_URL_LEN && target.len() > MAX_URL_LEN - 100, "{}", target.len());
        let ids = target.split("job_id=").nth(1).unwrap().split('&').next().unwrap();
        for (n, listed) in ids.split("%2C").enumerate() {
            assert_eq!(listed, id(n).as_str());
        }
        assert_eq!(count, ids.split("%2C").count());
    }
}
