//! The heartbeat: sends the queue the list of jobs that this worker holds, from a thread of its own that nothing else can block.
//! It also watches the dispatcher: a heartbeat that outlives it would keep the queue from giving its jobs to another worker.

pub(crate) mod limits;
mod pinger;
mod pulse;
mod record;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use runpod_worker_core::Snapshot;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::limits::{LOG_GRACE, REPORT_TIMEOUT};
use self::pinger::{Pinger, UnhealthyReport};
use self::pulse::until_stuck;
use self::record::Record;
use crate::base::{ClientError, Secret, UrlTemplate};
use crate::metrics::Metrics;
use crate::queue::{Extensions, Outage};

pub use pulse::Pulse;
pub use record::{HeartbeatMonitor, HeartbeatStats};

/// Where and how often to ping.
#[derive(Clone, Debug)]
pub struct HeartbeatConfig {
    /// `RUNPOD_WEBHOOK_PING`.
    pub url: UrlTemplate,
    /// Replaces `$ID`, should the template have it.
    pub worker_id: String,
    /// `RUNPOD_PING_INTERVAL`.
    pub interval: Duration,
    /// Sent as `Authorization`, without a scheme.
    pub key: Secret,
    /// What the queue announces; shared with the queue.
    pub extensions: Extensions,
}

/// Why the heartbeat cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The thread or its async runtime cannot be started.
    #[error("the heartbeat thread cannot start ({0}): raise the container's limit on processes")]
    Thread(#[from] io::Error),
}

/// The running heartbeat. Dropping it stops the pings.
#[derive(Debug)]
pub struct Heartbeat {
    record: Record,
    reports: mpsc::Sender<UnhealthyReport>,
    shutdown: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Heartbeat {
    /// Reports that this worker cannot work. Returns at once; [`Heartbeat::stop`] waits for the report, which is given up
    /// after two seconds.
    pub fn report_unhealthy(&self, check: &str, reason: &str) {
        let report = UnhealthyReport::new(check, reason);
        if self.reports.try_send(report).is_err() {
            tracing::warn!(check, "An unhealthy report was not sent: others wait, or the heartbeat has ended.");
        }
    }

    /// A handle that shows how the pings go.
    pub fn monitor(&self) -> HeartbeatMonitor {
        HeartbeatMonitor(self.record.clone())
    }

    /// Ends the pings and waits for reports in flight, for three seconds at most.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if timeout(REPORT_TIMEOUT + Duration::from_secs(1), &mut self.ended).await.is_err() {
            tracing::warn!("The heartbeat did not end in time.");
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Reports that this worker cannot work, before there is a heartbeat. Takes two seconds at most; a report that does not arrive is
/// logged.
pub async fn report_once(config: &HeartbeatConfig, check: &str, reason: &str) {
    let (_, snapshot) = watch::channel(Snapshot::default());
    match Pinger::new(config, snapshot, Record::default(), Arc::default(), Outage::default()) {
        Ok(pinger) => pinger.report(&UnhealthyReport::new(check, reason)).await,
        Err(error) => tracing::warn!(%error, check, "The unhealthy report cannot be sent."),
    }
}

/// Starts the heartbeat thread. The first ping is sent at once. Without `config` there are no pings, only the watch over
/// the dispatcher, which aborts the process when `pulse` has not beaten for a minute. `outage` is shared with the other requests to
/// the queue.
///
/// # Errors
/// When the client or the thread cannot be made.
pub fn spawn(
    config: Option<HeartbeatConfig>,
    snapshot: watch::Receiver<Snapshot>,
    pulse: Pulse,
    metrics: Arc<Metrics>,
    outage: Outage,
) -> Result<Heartbeat, HeartbeatError> {
    let record = Record::default();
    let shutdown = CancellationToken::new();
    let (reports, inbox) = mpsc::channel(4);
    let (ending, ended) = oneshot::channel();
    let pinger = match config {
        Some(config) => {
            record.begin();
            Some(Pinger::new(&config, snapshot, record.clone(), metrics, outage)?)
        }
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = shutdown.clone();
    thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        runtime.block_on(run(pinger.as_ref(), inbox, &pulse, &stop));
        // The receiver may be gone; ignore that.
        let _ = ending.send(());
    })?;
    Ok(Heartbeat { record, reports, shutdown, ended })
}

async fn run(pinger: Option<&Pinger>, inbox: mpsc::Receiver<UnhealthyReport>, pulse: &Pulse, stop: &CancellationToken) {
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
            () = until_stuck(pulse) => {
                tracing::error!(
                    "The dispatcher has been stuck for a minute. The worker aborts, so that its jobs are given to others."
                );
                sleep(LOG_GRACE).await;
                std::process::abort();
            }
        }
    };
    tokio::join!(work, send_reports(pinger, inbox, stop));
}

/// Sends reports until shutdown; those that were handed over before it are still sent.
async fn send_reports(pinger: Option<&Pinger>, mut inbox: mpsc::Receiver<UnhealthyReport>, stop: &CancellationToken) {
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

#[cfg(test)]
mod tests;
