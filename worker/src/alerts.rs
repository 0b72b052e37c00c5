//! Alerts about this worker, from the same snapshot that `/health` shows.

use std::time::Duration;

use runpod_alerts::{
    Counters, EVALUATION_INTERVAL, Format, Readings, Rule, SendError, Sender, Watch, Webhook, WebhookUrl,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::base::limits;
use crate::sensors::gpu::Gpus;
use runpod_worker_core::{Snapshot, WorkerState};

limits! {
    "alerts";
    /// How long the end of the worker waits for the last alerts.
    const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
}

/// Which alerts this worker raises, and where they are sent.
#[derive(Clone, Debug)]
pub struct AlertConfig {
    /// The rules in effect.
    pub rules: Vec<Rule>,
    /// Where alerts are posted; `None` to log them only.
    pub webhook: Option<WebhookUrl>,
    /// Shape of the posted body.
    pub format: Format,
}

/// Watches the worker until `over`, and once more then: what ends a worker is the last thing that happens to it.
///
/// # Errors
/// When the webhook cannot be used on this machine.
pub fn spawn(
    config: AlertConfig,
    worker_id: &str,
    snapshots: watch::Receiver<Snapshot>,
    gpus: Gpus,
    over: CancellationToken,
) -> Result<JoinHandle<()>, SendError> {
    let mut alerts = Alerts::start(config, worker_id)?;
    Ok(tokio::spawn(async move {
        let mut ticks = interval(EVALUATION_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(_tick) = over.run_until_cancelled(ticks.tick()).await {
            alerts.observe(&readings(&snapshots.borrow(), &gpus));
        }
        alerts.observe(&readings(&snapshots.borrow(), &gpus));
        alerts.finish().await;
    }))
}

/// Tells of a worker that is unfit before it has begun.
pub async fn report_unfit(config: AlertConfig, worker_id: &str) {
    match Alerts::start(config, worker_id) {
        Ok(mut alerts) => {
            alerts.observe(&Readings { unhealthy_workers: 1, ..Readings::default() });
            alerts.finish().await;
        }
        Err(error) => tracing::warn!(%error, "no alert is sent"),
    }
}

struct Alerts {
    watch: Watch,
    sender: Option<Sender>,
}

impl Alerts {
    fn start(config: AlertConfig, worker_id: &str) -> Result<Self, SendError> {
        let webhook = config.webhook.map(|url| Webhook::new(url, config.format)).transpose()?;
        Ok(Self { watch: Watch::new(worker_id, config.rules), sender: webhook.map(Sender::start) })
    }

    fn observe(&mut self, readings: &Readings) {
        for message in self.watch.observe(readings) {
            if let Some(sender) = &self.sender {
                sender.send(message);
            }
        }
    }

    async fn finish(self) {
        if let Some(sender) = self.sender {
            sender.finish(FINISH_TIMEOUT).await;
        }
    }
}

fn readings(snapshot: &Snapshot, gpus: &Gpus) -> Readings {
    let jobs = snapshot.jobs;
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Readings {
        waiting: count(jobs.in_queue),
        running: count(jobs.in_progress),
        idle_workers: u64::from(matches!(snapshot.state, WorkerState::Ready | WorkerState::Idle)),
        unhealthy_workers: u64::from(snapshot.state == WorkerState::Unhealthy),
        lost_workers: 0,
        gpu_utilization: utilization(gpus),
        data_unavailable: None,
        counters: Counters {
            completed: jobs.completed,
            failed: jobs.failed,
            caller_mistakes: snapshot.caller_mistakes(),
            timed_out: jobs.timed_out,
        },
    }
}

/// The mean of the GPUs that tell theirs.
fn utilization(gpus: &Gpus) -> Option<f64> {
    let gpus = gpus.latest()?;
    let used: Vec<f64> = gpus.iter().filter_map(|gpu| gpu.figures.utilization).collect();
    (!used.is_empty()).then(|| used.iter().sum::<f64>() / used.len() as f64)
}

#[cfg(test)]
mod tests {
    use runpod_handler_protocol::ErrorKind;

    use super::*;
    use crate::sensors::gpu::{Gpu, GpuFigures};
    use runpod_worker_core::JobCounts;

    #[test]
    fn the_readings_are_those_of_the_health_document() {
        let jobs =
            JobCounts { completed: 5, failed: 3, timed_out: 1, in_progress: 2, in_queue: 4, ..JobCounts::default() };
        let failures = [(ErrorKind::Validation, 1), (ErrorKind::ModelNotFound, 1), (ErrorKind::Timeout, 1)].into();
        let snapshot = Snapshot { state: WorkerState::Running, jobs, failures, ..Snapshot::default() };
        let seen = readings(&snapshot, &Gpus::absent());
        assert_eq!((seen.waiting, seen.running, seen.idle_workers, seen.unhealthy_workers), (4, 2, 0, 0));
        assert_eq!(seen.counters, Counters { completed: 5, failed: 3, caller_mistakes: 2, timed_out: 1 });
        for (state, idle, unhealthy) in [(WorkerState::Idle, 1, 0), (WorkerState::Unhealthy, 0, 1)] {
            let seen = readings(&Snapshot { state, ..Snapshot::default() }, &Gpus::absent());
            assert_eq!((seen.idle_workers, seen.unhealthy_workers), (idle, unhealthy));
        }
    }

    #[test]
    fn utilization_is_the_mean_of_the_gpus_that_tell_it() {
        let gpu =
            |utilization| Gpu { figures: GpuFigures { utilization, ..GpuFigures::default() }, memory_floor: None };
        let gpus = Gpus::fixed(vec![gpu(Some(0.5)), gpu(None), gpu(Some(0.1))]);
        assert_eq!(utilization(&gpus), Some(0.3));
        assert_eq!(utilization(&Gpus::absent()), None);
    }
}
