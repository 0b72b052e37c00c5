//! `runpod-worker run`: the worker proper.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::serve::serve;
use super::test::{DEFAULT_FILE, read_job, report_test, test};
use super::{complain, configure, print, start_log};
use crate::app::StartError;
use crate::config::{Config, DirectConfig, EXIT_CONFIG, ProcessEnvironment, RunArgs};
use crate::logs::Sink;
use crate::queue::HttpQueue;
use crate::{alerts, app, checks, direct, heartbeat};

/// Runs until the worker is over.
pub(super) async fn run(args: &RunArgs) -> ExitCode {
    let config = match configure(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if args.check_config {
        return print(&config.describe());
    }
    logged(config, work).await
}

/// Does the work with the log set up, and posts what is left of the log afterwards.
pub(super) async fn logged<W: Future<Output = ExitCode>>(config: Config, work: impl FnOnce(Config) -> W) -> ExitCode {
    let sink = config.log_sink.as_ref().map(|sink| Sink::start(sink, &config.identity.worker_id)).transpose();
    let sink = match sink {
        Ok(sink) => sink,
        Err(error) => return complain(EXIT_CONFIG, &error.to_string()),
    };
    let _log = match start_log(&config, sink.as_ref(), io::stdout()) {
        Ok(guard) => guard,
        Err(code) => return code,
    };
    let code = work(config).await;
    if let Some(sink) = sink {
        sink.close().await;
    }
    code
}

async fn work(config: Config) -> ExitCode {
    match DirectConfig::realtime(&ProcessEnvironment) {
        Ok(None) => {}
        Ok(Some(direct)) => return serve(config, direct, direct::realtime).await,
        Err(errors) => return complain(EXIT_CONFIG, &errors.to_string()),
    }
    let Some(queue) = &config.queue else {
        // As RunPod's own worker: without a queue, one local job.
        if !Path::new(DEFAULT_FILE).exists() {
            return complain(
                EXIT_CONFIG,
                "RUNPOD_WEBHOOK_GET_JOB is not set, so there is no queue to take jobs from. To run locally use \
                 `runpod-endpoint dev -- HANDLER`, or `runpod-worker test --input job.json -- HANDLER` for one job",
            );
        }
        return match read_job(None, None) {
            Ok(job) => report_test(test(config, job).await),
            Err(error) => complain(EXIT_CONFIG, &error.to_string()),
        };
    };
    let queue = match HttpQueue::new(queue) {
        Ok(queue) => Arc::new(queue),
        Err(error) => return complain(EXIT_CONFIG, &error.to_string()),
    };
    log_configuration(&config);
    if !is_fit(&config).await {
        return unhealthy(1);
    }
    let (started, _) = oneshot::channel();
    over(app::run(config, queue, started).await)
}

/// Says what this worker will do.
pub(super) fn log_configuration(config: &Config) {
    tracing::info!("runpod-worker {} starts with this configuration:", env!("CARGO_PKG_VERSION"));
    for line in config.describe().lines() {
        tracing::info!("{line}");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// The exit status of a worker that has ended.
pub(super) fn over(result: Result<u8, StartError>) -> ExitCode {
    match result {
        Ok(0) => {
            tracing::info!("Stopped.");
            ExitCode::SUCCESS
        }
        Ok(code) => unhealthy(code),
        Err(error @ (StartError::Spool(_) | StartError::Traces(_))) => complain(EXIT_CONFIG, &error.to_string()),
        Err(error) => complain(1, &error.to_string()),
    }
}

/// Makes the worker's own checks. The platform is told of the first that fails.
pub(super) async fn is_fit(config: &Config) -> bool {
    let reports = checks::run(&config.checks).await;
    checks::log(&reports);
    let Some(failed) = reports.iter().find(|report| report.is_failure()) else { return true };
    if let Some(heartbeat) = &config.heartbeat {
        heartbeat::report_once(heartbeat, &failed.name, &failed.reason()).await;
    }
    alerts::report_unfit(config.alerts.clone(), &config.identity.worker_id).await;
    false
}

pub(super) fn unhealthy(code: u8) -> ExitCode {
    tracing::error!(code, "Stopped because the worker is unhealthy.");
    ExitCode::from(code)
}
