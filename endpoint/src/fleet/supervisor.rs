//! Keeps one worker running: starts it, watches it, replaces it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::FleetError;
use super::plan::WorkerPlan;
use super::process::WorkerProcess;
use super::rebuild::Rebuilds;
use super::restart::RestartPauses;
use crate::balancer::Registration;
use crate::faults::ProcessSignal;
use crate::store::{Store, StoreError, WorkerEvent, ping_interval};
use crate::worker_env::{served_worker_env, worker_env};

/// The exit status of a worker that cannot run until its configuration changes (`EX_USAGE`).
const CONFIGURATION_ERROR: i32 = 64;

/// How long one call waits in the store for a worker that asks to be replaced; it is repeated while the worker runs. Short, because
/// the last job of such a worker may end without a report from it.
const REFRESH_WAIT: Duration = Duration::from_secs(5);

/// Between two looks at what a worker behind a balancer does.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Pause before a store that was unavailable is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// How one run of a worker ended.
enum End {
    /// Its process could not be started.
    NoRoom,
    Exited(Option<ExitStatus>),
    Refreshing,
    /// The handler program was built anew.
    Rebuilt,
    Stopped,
}

/// The two ways to stop.
#[derive(Debug, Clone)]
pub(crate) struct StopSignals {
    /// Finish the jobs within the grace.
    pub(crate) soon: CancellationToken,
    /// Skip the grace.
    pub(crate) now: CancellationToken,
}

pub(crate) struct Supervisor {
    pub(crate) plan: Arc<WorkerPlan>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) number: u16,
    /// The id of every process of this worker, so that the next one finds the spool of the last one.
    pub(crate) worker: Arc<str>,
    /// Whether it exits again and again, for its pool.
    pub(crate) is_failing: Arc<AtomicBool>,
    pub(crate) stop: StopSignals,
}

impl Supervisor {
    /// Runs until `stop`, or until the worker cannot run at all.
    pub(crate) async fn run(self) -> Result<(), FleetError> {
        let mut pauses = RestartPauses::new();
        let mut rebuilds = self.plan.rebuilds.clone();
        while !self.stop.soon.is_cancelled() {
            let started = Instant::now();
            if let Some(rebuilds) = &mut rebuilds {
                rebuilds.catch_up();
            }
            let end = match self.run_once(&mut rebuilds).await {
                Err(error) if error.is_temporary() => {
                    tracing::warn!(worker = %self.worker, %error, "This machine has no room for the worker. Starting it is tried again.");
                    End::NoRoom
                }
                end => end?,
            };
            let (pause, meanwhile) = match end {
                End::Stopped => return Ok(()),
                End::Refreshing => (Duration::ZERO, None),
                End::Rebuilt => {
                    pauses = RestartPauses::new();
                    self.is_failing.store(false, Ordering::Relaxed);
                    continue;
                }
                End::NoRoom => (pauses.next(Duration::ZERO), Some(WorkerEvent::Throttled)),
                End::Exited(Some(status)) if status.code() == Some(CONFIGURATION_ERROR) => {
                    if !rebuilds.as_ref().is_some_and(Rebuilds::is_missing) {
                        return Err(FleetError::Configuration);
                    }
                    tracing::warn!(worker = %self.worker, "The handler program is missing. The worker waits for it to be built.");
                    (RestartPauses::LONGEST, None)
                }
                End::Exited(status) => {
                    let pause = pauses.next(started.elapsed());
                    let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
                    tracing::warn!(worker = %self.worker, %status, ?pause, "The worker has exited. It is started again.");
                    self.is_failing.store(pauses.is_unhealthy(), Ordering::Relaxed);
                    (pause, pauses.is_unhealthy().then_some(WorkerEvent::Failing))
                }
            };
            if self.pause(pause, meanwhile, &mut rebuilds).await? {
                pauses = RestartPauses::new();
                self.is_failing.store(false, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Waits before the next start; meanwhile `/health` shows why no process runs. Returns early, and true, when the handler
    /// program is built anew.
    async fn pause(
        &self,
        pause: Duration,
        meanwhile: Option<WorkerEvent>,
        rebuilds: &mut Option<Rebuilds>,
    ) -> Result<bool, FleetError> {
        if let Some(event) = meanwhile {
            self.note(event).await?;
        }
        let rebuilt = tokio::select! {
            () = sleep(pause) => false,
            () = self.stop.soon.cancelled() => false,
            () = next_build(rebuilds) => true,
        };
        if meanwhile.is_some() {
            self.note(WorkerEvent::Gone).await?;
        }
        Ok(rebuilt)
    }

    /// Notes an event in the store. One that is unavailable ends no worker: the note is repeated until it is taken, or
    /// until this worker is to stop.
    async fn note(&self, event: WorkerEvent) -> Result<(), FleetError> {
        loop {
            match self.store.worker_event(&self.plan.endpoint, &self.worker, event).await {
                Err(StoreError::Unavailable(_)) if self.stop.soon.is_cancelled() => return Ok(()),
                Err(StoreError::Unavailable(_)) => {
                    let _ = timeout(STORE_PAUSE, self.stop.soon.cancelled()).await;
                }
                noted => return Ok(noted?),
            }
        }
    }

    /// One process from start to end.
    async fn run_once(&self, rebuilds: &mut Option<Rebuilds>) -> Result<End, FleetError> {
        let (plan, worker) = (&self.plan, &self.worker);
        if let Some(faults) = &plan.faults {
            faults.signals.forget(worker);
        }
        self.note(WorkerEvent::Starting).await?;
        let address = plan.balancer.as_ref().map(|_| free_address()).transpose()?;
        let port = plan.http_ports.next_of(self.number);
        let mut process = WorkerProcess::start(&plan.command, self.env(address, port), &plan.local)?;
        let served = plan.balancer.as_ref().zip(address);
        let registration = served.map(|(balancer, address)| balancer.register(Arc::clone(worker), address));
        tracing::info!(%worker, "The worker has started.");
        let _listed = process.id().map(|pid| plan.local.list(worker, pid, port));
        let end = loop {
            tokio::select! {
                status = process.wait() => break self.ended(status).await,
                () = self.refreshing() => break End::Refreshing,
                Err(error) = self.report(registration.as_ref()) => return Err(error),
                () = next_build(rebuilds) => {
                    tracing::info!(%worker, "The handler program has changed. The worker finishes its jobs and starts anew.");
                    break End::Rebuilt;
                }
                () = self.stop.soon.cancelled() => break End::Stopped,
                signal = self.scripted_signal() => match signal {
                    ProcessSignal::Terminate => process.ask_to_stop(),
                    ProcessSignal::Kill => process.kill_group(),
                },
            }
        };
        if !matches!(end, End::Exited(_)) {
            self.note(WorkerEvent::Leaving).await?;
            if let Some(registration) = &registration {
                registration.leave();
            }
            self.stop_process(&mut process).await;
        }
        process.finish_output().await;
        self.note(WorkerEvent::Gone).await?;
        Ok(end)
    }

    /// Notes what a worker behind a balancer does: every change, and again within the lease.
    async fn report(&self, registration: Option<&Registration>) -> Result<Infallible, FleetError> {
        let Some(registration) = registration else { return std::future::pending().await };
        let repeated = ping_interval(self.plan.lease);
        let mut last = (WorkerEvent::Starting, Instant::now());
        let mut ticks = interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let event = registration.event();
            if event != last.0 || last.1.elapsed() >= repeated {
                self.note(event).await?;
                last = (event, Instant::now());
            }
        }
    }

    async fn scripted_signal(&self) -> ProcessSignal {
        match &self.plan.faults {
            Some(faults) => {
                let signal = faults.signals.next(&self.worker).await;
                tracing::info!(worker = %self.worker, ?signal, "A scripted fault sends a signal to the worker.");
                signal
            }
            None => std::future::pending().await,
        }
    }

    async fn refreshing(&self) {
        loop {
            match self.store.refreshing(&self.plan.endpoint, &self.worker, REFRESH_WAIT).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(_) => sleep(STORE_PAUSE).await,
            }
        }
        tracing::info!(worker = %self.worker, "The worker asks to be replaced.");
    }

    /// A worker that asked to be replaced may exit before it is stopped.
    async fn ended(&self, status: Option<ExitStatus>) -> End {
        match self.store.refreshing(&self.plan.endpoint, &self.worker, Duration::ZERO).await {
            Ok(true) => End::Refreshing,
            Ok(false) | Err(_) => End::Exited(status),
        }
    }

    /// SIGTERM, the grace, SIGKILL.
    async fn stop_process(&self, process: &mut WorkerProcess) {
        process.ask_to_stop();
        let left = tokio::select! {
            left = timeout(self.plan.stop_grace, process.wait()) => left.is_ok(),
            () = self.stop.now.cancelled() => false,
        };
        if !left {
            tracing::warn!(worker = %self.worker, "The worker did not exit within the grace and is killed.");
            process.kill().await;
        }
    }

    /// `address` is where a worker behind a balancer answers requests, `port` that of its own server.
    fn env(&self, address: Option<SocketAddr>, port: Option<u16>) -> Vec<(&'static str, String)> {
        let plan = &self.plan;
        let mut env = match address {
            None => worker_env(&plan.base_url, &plan.endpoint, &self.worker, plan.worker_key.as_ref(), plan.lease),
            Some(address) => served_worker_env(&plan.endpoint, &self.worker, address),
        };
        let port = port.unwrap_or_default();
        env.extend(plan.gpus.set(self.number).map(|set| ("CUDA_VISIBLE_DEVICES", set)));
        env.push(("RUNPOD_WORKER_HTTP_BIND", format!("127.0.0.1:{port}")));
        if std::env::var_os("RUNPOD_WORKER_LOG_FORMAT").is_none() {
            env.push(("RUNPOD_WORKER_LOG_FORMAT", plan.log_format.as_str().to_owned()));
        }
        // RunPod's fitness checks expect a production machine: 4 GiB of free memory, a tenth of the disk, a GPU of its own.
        for variable in ["RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "RUNPOD_SKIP_GPU_CHECK"] {
            if std::env::var_os(variable).is_none() {
                env.push((variable, "true".to_owned()));
            }
        }
        env
    }
}

/// An address on this machine that nobody listens at.
fn free_address() -> Result<SocketAddr, FleetError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map_err(FleetError::NoPort)
}

async fn next_build(rebuilds: &mut Option<Rebuilds>) {
    match rebuilds {
        Some(rebuilds) => rebuilds.next().await,
        None => std::future::pending().await,
    }
}
