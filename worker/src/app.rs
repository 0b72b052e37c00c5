//! Builds the parts of a worker, connects them, runs them and ends them in the right order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runpod_http_server::{connections_within, raise_descriptor_limit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::alerts;
use crate::base::limits;
use crate::config::{Config, HandlerConfig};
use crate::dispatcher::{Dispatcher, EffectHandlers};
use crate::heartbeat::{self, Heartbeat, HeartbeatError, Pulse};
use crate::http::{self, HttpState, NamedCounts, PulseWatch};
use crate::logs::LogConfig;
use crate::metrics::{Metrics, RuntimeMetrics, ServerMetrics};
use crate::observer::Observer;
use crate::outbox::{self, Outbox, Spool, SpoolConfig, SpoolError, Undelivered};
use crate::parent;
use crate::process::{HandlerCommand, Processes};
use crate::queue::hand_back::{self, HandBacks};
use crate::queue::{JobSource, ResultSink, poller, stop};
use crate::sensors::gpu::{self, GpuSampler};
use crate::sensors::{Port, Sensors, host};
use crate::traces::{TraceError, TraceExport, Traces};
use runpod_worker_core::{DeliveryEvent, DrainCause, Event, ProcessId, Snapshot};

limits! {
    "app";
    /// Events that may wait for the dispatcher. Senders wait when the channel is full; the dispatcher never waits.
    const MAX_WAITING_EVENTS: usize = 1024;
    /// Time between two readings of the host memory of handler processes, where it has a limit.
    const MEMORY_INTERVAL: Duration = Duration::from_secs(1);
}

/// Why a worker cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The HTTP server's address cannot be used.
    #[error(
        "cannot serve /health and /metrics on {address}: {error}; choose another address with --http-bind (for workers that runpod-endpoint starts: another port with its --worker-http-port), or `none`"
    )]
    Bind {
        /// Where it was to listen.
        address: SocketAddr,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// Signals cannot be received, or standard input cannot be watched.
    #[error("cannot watch for the signal to stop: {0}; raise the limits on open files and processes (ulimit -n, -u)")]
    Signals(std::io::Error),
    /// The spool that was asked for cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The alert webhook cannot be used.
    #[error(transparent)]
    Alerts(#[from] runpod_alerts::SendError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// The thread that measures the GPUs cannot be started.
    #[error("cannot start the thread that measures the GPUs: {0}; with --gpu-interval 0s it is not needed")]
    Gpus(std::io::Error),
    /// The heartbeat cannot be started.
    #[error(transparent)]
    Heartbeat(#[from] HeartbeatError),
}

/// The connection to a running worker.
#[derive(Clone, Debug)]
pub struct Control {
    /// Input of the state machine.
    pub events: mpsc::Sender<Event>,
    /// The latest snapshot of the worker.
    pub snapshots: watch::Receiver<Snapshot>,
}

/// Runs a worker until it ends and returns its exit status. `started` receives its [`Control`] once all parts run.
/// The metrics show the worker's own HTTP server and `other_servers`.
///
/// # Errors
/// When a part cannot be started. Nothing has been taken from the queue then.
pub async fn run<Q: JobSource + ResultSink>(
    config: Config,
    queue: Arc<Q>,
    other_servers: Vec<NamedCounts>,
    started: oneshot::Sender<Control>,
) -> Result<u8, StartError> {
    let listener = match config.http_bind {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let descriptors = raise_descriptor_limit();
    let (events, inbox) = mpsc::channel(MAX_WAITING_EVENTS);
    let (snapshots, latest) = watch::channel(Snapshot::default());
    let pulse = Pulse::default();
    let begun = Instant::now();
    // Ends the tasks that must not outlive the dispatcher.
    let over = CancellationToken::new();
    let gpus = gpu::spawn(config.gpus.clone(), latest.clone(), events.clone()).map_err(StartError::Gpus)?;
    let own_port = listener.as_ref().and_then(|listener| listener.local_addr().ok()).map(Port::http);
    let ports = own_port.into_iter().chain(config.ports.clone()).collect();
    let sensors = Sensors::new(gpus.gpus(), host::spawn(over.clone()), ports);
    let mut metrics = Metrics::new(config.tenant_limit);
    metrics.add(RuntimeMetrics::new(sensors.clone(), latest.clone()));
    let (http, own_counts) = http::server("health", connections_within(config.http_connections, descriptors));
    let own_counts = listener.as_ref().map(|_| own_counts);
    metrics.add(ServerMetrics::new(own_counts.into_iter().chain(other_servers).collect()));
    let metrics = Arc::new(metrics);

    let (traces, export) =
        config.traces.as_ref().map(|traces| Traces::start(traces, &config.identity)).transpose()?.unzip();
    forward_signals(events.clone(), over.clone())?;
    if config.stop_with_stdin {
        parent::watch(events.clone()).map_err(StartError::Signals)?;
    }
    let processes = processes(&config.handler, &config.log, config.policy.recycle.max_rss.is_some(), events.clone());
    let spool = open_spool(config.spool.clone()).await?;
    let outbox = start_outbox(&config, Arc::clone(&queue), spool, &events).await;
    let heartbeat = Arc::new(heartbeat::spawn(
        config.heartbeat,
        latest.clone(),
        pulse.clone(),
        Arc::clone(&metrics),
        JobSource::outage(&*queue),
    )?);
    let alerts = alerts::spawn(config.alerts, &config.identity.worker_id, latest.clone(), gpus.gpus(), over.clone())?;
    let server = listener.map(|listener| {
        let state = HttpState {
            identity: Arc::new(config.identity),
            snapshots: latest.clone(),
            metrics: Arc::clone(&metrics),
            outbox: outbox.clone(),
            heartbeat: heartbeat.monitor(),
            pulse: Arc::new(PulseWatch::new(pulse.clone())),
            sensors,
            started: begun,
        };
        tokio::spawn(http::serve(http, listener, http::router(state), over.clone()))
    });
    stop::spawn(Arc::clone(&queue), events.clone(), over.clone());
    let (hand_backs, hand_back_task) = hand_back::spawn(Arc::clone(&queue));
    let handlers = EffectHandlers {
        processes,
        poller: poller::spawn(queue, events.clone()),
        hand_backs,
        outbox,
        heartbeat: Arc::clone(&heartbeat),
        metrics: Some(metrics),
        observer: Observer::new(traces),
    };
    // The receiver may be gone; ignore that.
    let _ = started.send(Control { events, snapshots: latest });

    let dispatcher = Dispatcher::new(config.policy, handlers, inbox, snapshots, pulse, begun);
    // On a thread of the runtime, as all tasks that it exchanges messages with: another thread would have to be woken for each.
    let code = match tokio::spawn(dispatcher.run()).await {
        Ok(code) => code,
        // Nobody cancels it, so this is a panic; it goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };

    Parts { over, hand_back_task, server, alerts, gpus, heartbeat, export }.shut_down(code == 0).await;
    Ok(code)
}

/// The parts that outlive the dispatcher.
struct Parts<Q> {
    over: CancellationToken,
    hand_back_task: HandBacks<Q>,
    server: Option<JoinHandle<()>>,
    alerts: JoinHandle<()>,
    gpus: GpuSampler,
    heartbeat: Arc<Heartbeat>,
    export: Option<TraceExport>,
}

impl<Q: ResultSink> Parts<Q> {
    /// Ends each part once nothing needs it any more.
    async fn shut_down(mut self, is_healthy: bool) {
        self.over.cancel();
        // Before the heartbeat ends: until then the queue waits for these jobs.
        self.hand_back_task.finish().await;
        if let Some(server) = self.server {
            let _ = server.await;
        }
        let _ = self.alerts.await;
        self.gpus.stop().await;
        // Late, so that heartbeats go on as long as the worker holds a job.
        if let Some(heartbeat) = Arc::into_inner(self.heartbeat) {
            heartbeat.stop().await;
        }
        // After every other request. A worker that is unhealthy does not leave properly.
        if is_healthy {
            self.hand_back_task.goodbye().await;
        }
        if let Some(export) = self.export {
            export.close().await;
        }
    }
}

/// The handler processes, none of them started yet.
fn processes(handler: &HandlerConfig, log: &LogConfig, watches_memory: bool, events: mpsc::Sender<Event>) -> Processes {
    // The handler does not send what would not be logged.
    let env = vec![("RUNPOD_WORKER_LOG_LEVEL".into(), log.level.to_string().into())];
    let command = HandlerCommand { program: handler.program.clone(), args: handler.args.clone(), env };
    let memory_interval = watches_memory.then_some(MEMORY_INTERVAL);
    let mut processes = Processes::new(command, events).watching_memory(memory_interval).with_log_rate(log.rate);
    for (index, device) in handler.devices.iter().enumerate() {
        let env = vec![("CUDA_VISIBLE_DEVICES".into(), device.into())];
        processes = processes.with_process_env(ProcessId(index), env);
    }
    processes
}

/// Opens the spool. Without `--spool-dir` the worker also runs without one.
async fn open_spool(config: SpoolConfig) -> Result<Option<(Spool, Undelivered)>, StartError> {
    let required = config.required;
    let opened = tokio::task::spawn_blocking(move || Spool::open(&config)).await;
    match opened {
        Ok(Ok(spool)) => Ok(spool),
        Ok(Err(error)) if required => Err(error.into()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "There is no spool: undelivered results are lost when this worker ends.");
            Ok(None)
        }
        // The async runtime is ending.
        Err(_) => Ok(None),
    }
}

/// Starts the outbox. The first event of the dispatcher is the list of results that an earlier run has left.
async fn start_outbox<Q: ResultSink>(
    config: &Config,
    queue: Arc<Q>,
    spool: Option<(Spool, Undelivered)>,
    events: &mpsc::Sender<Event>,
) -> Outbox {
    let (identity, limits) = (config.identity.clone(), config.outbox);
    let Some((spool, undelivered)) = spool else { return outbox::spawn(queue, identity, limits, events.clone()) };
    let jobs = undelivered.results.iter().map(|(_, record)| record.job.clone()).collect();
    // The channel is new, so this does not wait.
    let _ = events.send(Event::Delivery(DeliveryEvent::Undelivered(jobs))).await;
    let always = config.spool.always;
    let outbox = outbox::spawn_with_spool(queue, identity, limits, events.clone(), spool, always, &undelivered);
    outbox.resume(undelivered);
    outbox
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Bind { address, error })
}

/// Turns the first signal to end into a drain, and a second SIGTERM or SIGINT into an abort. SIGHUP and SIGQUIT only begin a
/// drain: some init systems send SIGHUP right after SIGTERM, and that is no reason to hurry.
fn forward_signals(events: mpsc::Sender<Event>, over: CancellationToken) -> Result<(), StartError> {
    let listen = |kind| signal(kind).map_err(StartError::Signals);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut quit = listen(SignalKind::quit())?;
    tokio::spawn(async move {
        let mut draining = false;
        loop {
            let may_abort = tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = hangup.recv() => false,
                _ = quit.recv() => false,
                () = over.cancelled() => return,
            };
            let event = if !draining {
                Event::Drain(DrainCause::Signal)
            } else if may_abort {
                Event::Abort
            } else {
                continue;
            };
            draining = true;
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
