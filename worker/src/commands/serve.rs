//! `runpod-worker serve`, and the realtime port of `run`: jobs by HTTP request, no queue.

use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use runpod_http_server::{HttpServer, connections_within, raise_descriptor_limit};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fixed_limits::fixed_limits;
use super::lifecycle::{exit_status, is_fit, log_configuration, unhealthy, with_log};
use super::{complain, configure, print};
use crate::app::{self, Control};
use crate::cli::ServeArgs;
use crate::config::{Config, Description, EXIT_CONFIG, ProcessEnvironment, load_serve};
use crate::direct::{self, DirectConfig, DirectQueue};
use crate::http;
use runpod_worker_core::WorkerState;

/// Serves the handler until the worker ends.
pub(super) async fn serve_command(args: &ServeArgs) -> ExitCode {
    let (config, (direct, description)) =
        match (configure(&args.run), load_serve(&args.direct, args.run.http_bind.as_deref(), &ProcessEnvironment)) {
            (Ok(config), Ok(direct)) => (config, direct),
            (Err(code), Ok(_)) => return code,
            (_, Err(errors)) => return complain(EXIT_CONFIG, &errors.to_string()),
        };
    if args.run.check_config {
        return print(&format!("{}\n{description}\n{}", config.description, fixed_limits(&config)));
    }
    with_log(config, async |config| serve(config, direct, &description, direct::jobs).await).await
}

/// Serves jobs on the routes that `routes` makes. The worker's own HTTP server runs beside it.
pub(super) async fn serve(
    mut config: Config,
    direct: DirectConfig,
    description: &Description,
    routes: fn(DirectQueue) -> Router,
) -> ExitCode {
    log_configuration(&config, Some(description));
    // The callers are gone when the worker ends, so there is nothing to deliver after a restart.
    config.spool.folder = None;
    config.policy.queue_recycles = false;
    if !is_fit(&config).await {
        return unhealthy(1);
    }
    let mut listeners = Vec::new();
    for address in direct.addresses() {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                let fix = "choose another address with --bind, PORT or PORT_HEALTH";
                return complain(EXIT_CONFIG, &format!("cannot listen on {address}: {error}; {fix}"));
            }
        }
    }
    let descriptors = raise_descriptor_limit();
    let (jobs, job_counts) = http::server("jobs", connections_within(direct.max_connections, descriptors / 2));
    let (pings, ping_counts) = http::server("ping", connections_within(http::limits::MAX_CONNECTIONS, descriptors / 4));
    let mut counts = vec![job_counts];
    counts.extend(direct.health.map(|_| ping_counts));
    let queue = DirectQueue::new(direct.max_waiting, direct.max_wait);
    let ended = CancellationToken::new();
    let (started, control) = oneshot::channel();
    let accepting = tokio::spawn(accept(
        listeners.into_iter().zip([jobs, pings]).collect(),
        direct.ping_path,
        routes,
        queue.clone(),
        control,
        ended.clone(),
    ));
    let result = app::run(config, Arc::new(queue.clone()), counts, started).await;
    queue.end();
    ended.cancel();
    let _ = accepting.await;
    exit_status(result)
}

/// Answers requests until the worker has ended. No job is accepted once the worker drains or is unhealthy.
async fn accept(
    servers: Vec<(TcpListener, HttpServer)>,
    ping_path: String,
    routes: fn(DirectQueue) -> Router,
    queue: DirectQueue,
    control: oneshot::Receiver<Control>,
    ended: CancellationToken,
) {
    let Ok(Control { mut snapshots, .. }) = control.await else { return };
    let ping = http::ping(snapshots.clone(), &ping_path);
    // Jobs come to the first address, health checks to both.
    let routers = [routes(queue.clone()).merge(ping.clone()), ping];
    let mut serving = JoinSet::new();
    for ((listener, server), router) in servers.into_iter().zip(routers) {
        serving.spawn(http::serve(server, listener, router, ended.clone()));
    }
    let closing = |state| matches!(state, WorkerState::Draining | WorkerState::Unhealthy);
    let _ = snapshots.wait_for(|snapshot| closing(snapshot.state)).await;
    queue.close();
    serving.join_all().await;
}
