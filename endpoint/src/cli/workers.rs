//! Runs the server together with local workers.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::ListenArgs;
use super::effective::Effective;
use super::exit::Exit;
use super::open::{Extra, Opened, Rebuild};
use super::output::Output;
use super::signals::StopRequests;
use crate::balancer::Balancer;
use crate::fleet::{
    FleetError, Gpus, HttpPorts, Pool, Rebuilds, ScaleSettings, ScalerRule, StopSignals, WorkerPlan, keep_schema,
    run_pools,
};

/// The pools of the command line's own handler, if there is one, and of the configured endpoints that have one.
pub(crate) fn pools(
    opened: &Opened,
    extra: &Extra<'_>,
    listen: &ListenArgs,
    effective: &Effective,
) -> Result<Vec<Pool>, FleetError> {
    let Extra { workers: args, rebuild, .. } = *extra;
    let wanted = wanted_pools(opened, extra);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let gpus = Gpus::new(&args.gpus, usize::from(args.gpus_per_worker))?;
    let workers = wanted.iter().fold(0_u16, |sum, pool| sum.saturating_add(pool.scale.max));
    let http_ports = HttpPorts::find(args.worker_http_port, workers, !effective.is_default("worker-http-port"))?;
    // Ports and GPUs are dealt out to the workers of all pools, one after the other.
    let mut earlier: u16 = 0;
    let mut pools = Vec::new();
    for WantedPool { endpoint, handler, scale, lease, balancer } in wanted {
        let mode = if balancer.is_some() { "serve" } else { "run" };
        let plan = WorkerPlan {
            worker_prefix: worker_prefix(&endpoint, opened, listen),
            endpoint,
            base_url: opened.server.base_url(),
            worker_key: opened.worker_key.clone(),
            lease: lease.unwrap_or(listen.jobs.lease),
            command: WorkerPlan::command(args.worker_bin.as_deref(), mode, &args.worker_args, &handler)?,
            rebuilds: handler.first().filter(|_| rebuild == Rebuild::Restart).and_then(|it| Rebuilds::watch(it)),
            http_ports: http_ports.after(earlier),
            stop_grace: args.stop_grace,
            gpus: gpus.after(earlier),
            log_format: listen.log.log_format.into(),
            faults: opened.faults.clone(),
            local: opened.local.clone(),
            balancer,
        };
        if let Some(balancer) = &plan.balancer {
            balancer.name_workers((0..scale.max).map(|place| plan.worker(place)));
        }
        if opened.local.endpoint() == Some(&*plan.endpoint) {
            tokio::spawn(keep_schema(plan.schema_command(&handler), opened.local.clone(), plan.rebuilds.clone()));
        }
        earlier = earlier.saturating_add(scale.max);
        pools.push(Pool { plan, scale });
    }
    Ok(pools)
}

/// The pool of one endpoint, before ports and GPUs are shared out.
struct WantedPool {
    endpoint: String,
    handler: Vec<OsString>,
    scale: ScaleSettings,
    lease: Option<Duration>,
    balancer: Option<Arc<Balancer>>,
}

/// The command line's own handler first, then those of the configured endpoints.
fn wanted_pools(opened: &Opened, extra: &Extra<'_>) -> Vec<WantedPool> {
    let Extra { shown: endpoint, handler, workers: args, .. } = *extra;
    let (min, max) = args.bounds();
    let own = ScaleSettings { min, max, rule: args.scaler, idle_timeout: args.idle_timeout };
    let mut wanted = Vec::new();
    if !handler.is_empty() {
        wanted.push(WantedPool {
            endpoint: endpoint.to_owned(),
            handler: handler.to_vec(),
            scale: own,
            lease: opened.config.lease(endpoint),
            balancer: None,
        });
    }
    for config in opened.config.endpoint.iter().filter(|config| !config.handler.is_empty()) {
        let (min, max) = config.worker_bounds(args.bounds());
        let concurrency = config.load_balancer.as_ref().and_then(|balancer| u32::try_from(balancer.concurrency).ok());
        let scale = ScaleSettings {
            min,
            max,
            rule: concurrency.map_or(config.scaler.unwrap_or(own.rule), ScalerRule::RequestCount),
            idle_timeout: config.idle_timeout.unwrap_or(own.idle_timeout),
        };
        wanted.push(WantedPool {
            endpoint: config.id.clone(),
            handler: config.handler.iter().map(OsString::from).collect(),
            scale,
            lease: config.lease,
            balancer: opened.fronts.balancer(&config.id),
        });
    }
    wanted
}

/// Longest part of a host's name in the id of a worker.
const HOST: usize = 40;

/// What the ids of an endpoint's local workers begin with. Endpoints that share a database have one queue, and each needs names of its own.
fn worker_prefix(endpoint: &str, opened: &Opened, listen: &ListenArgs) -> String {
    if listen.database.is_none() {
        return endpoint.to_owned();
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let host: String = host.chars().take(HOST).map(|letter| if fits(letter) { letter } else { '-' }).collect();
    format!("{endpoint}-{host}-{}", opened.server.port())
}

/// Serves, and keeps the workers running, until a stop signal or the first failure.
pub(crate) async fn run(opened: Opened, pools: Vec<Pool>, stops: StopRequests, output: &mut Output) -> Exit {
    let Opened { server, store, webhooks, alerts, overflow, fronts, .. } = opened;
    let stop = StopSignals { soon: CancellationToken::new(), now: CancellationToken::new() };
    tokio::spawn(forward(stops, stop.clone()));
    // The server stops after the workers, so that they can deliver their last results.
    let close = CancellationToken::new();
    webhooks.start(close.clone());
    alerts.start(Arc::clone(&store), close.clone());
    fronts.start(&store, &stop.soon, &close);
    let overflow = overflow.start(&stop.soon, &close);
    let serving = server.run(Arc::clone(&store), stop.soon.clone(), close.clone());
    let working = async {
        let outcome = run_pools(pools, Arc::clone(&store), stop.clone()).await;
        close.cancel();
        outcome
    };
    let ((), worked) = tokio::join!(serving, working);
    let _ = overflow.await;
    store.leave().await;
    match worked {
        Ok(()) => Exit::Success,
        Err(error @ FleetError::Configuration) => output.fail(&error, Exit::Usage),
        Err(error) => output.fail(&error, Exit::Failure),
    }
}

/// At the first signal workers finish their jobs; at the second one jobs are ended.
async fn forward(mut stops: StopRequests, stop: StopSignals) {
    stops.next().await;
    tracing::info!("Stopping: workers finish their jobs. Press Ctrl-C again to end them at once.");
    stop.soon.cancel();
    stops.next().await;
    stop.now.cancel();
}
