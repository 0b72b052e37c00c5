//! `runpod-worker serve`, and the realtime port of `run`: jobs by HTTP request, no queue.

use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::run::{is_fit, log_configuration, logged, over, unhealthy};
use super::{complain, configure, print};
use crate::app::{self, Control};
use crate::cli::ServeArgs;
use crate::config::{Config, DirectConfig, EXIT_CONFIG, ProcessEnvironment};
use crate::direct::{self, DirectQueue};
use crate::http;
use runpod_worker_core::WorkerState;

/// Serves the handler until told to stop.
pub(super) async fn serve_command(args: &ServeArgs) -> ExitCode {
    let (config, direct) = match (configure(&args.run), DirectConfig::serve(&args.direct, &ProcessEnvironment)) {
        (Ok(config), Ok(direct)) => (config, direct),
        (Err(code), Ok(_)) => return code,
        (_, Err(errors)) => return complain(EXIT_CONFIG, &errors.to_string()),
    };
    if args.run.check_config {
        return print(&format!("{}{}", config.describe(), direct.describe()));
    }
    logged(config, |config| serve(config, direct, direct::jobs)).await
}

/// Serves jobs on the routes that `routes` makes, beside what the worker's own server answers.
pub(super) async fn serve(mut config: Config, direct: DirectConfig, routes: fn(DirectQueue) -> Router) -> ExitCode {
    log_configuration(&config);
    for line in direct.describe().lines() {
        tracing::info!("{line}");
    }
    // Whoever waits for a result is gone when the worker is: there is nothing to deliver after a restart.
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
    let queue = DirectQueue::new(direct.max_waiting, direct.max_wait);
    let ended = CancellationToken::new();
    let (started, control) = oneshot::channel();
    let accepting = tokio::spawn(accept(listeners, direct.ping_path, routes, queue.clone(), control, ended.clone()));
    let result = app::run(config, Arc::new(queue.clone()), started).await;
    queue.end();
    ended.cancel();
    let _ = accepting.await;
    over(result)
}

/// Answers requests until the worker has ended. From the first sign of its end no job is taken in.
async fn accept(
    listeners: Vec<TcpListener>,
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
    let mut servers = JoinSet::new();
    for (listener, router) in listeners.into_iter().zip(routers) {
        servers.spawn(http::serve(listener, router, ended.clone()));
    }
    let closing = |state| matches!(state, WorkerState::Draining | WorkerState::Unhealthy);
    let _ = snapshots.wait_for(|snapshot| closing(snapshot.state)).await;
    queue.close();
    servers.join_all().await;
}
