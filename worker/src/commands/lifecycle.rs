//! What `run` and `serve` share: the log, the start, the worker's own fitness checks and the exit status.

use std::io;
use std::process::ExitCode;

use super::fixed_limits::fixed_limits;
use super::{complain, start_log};
use crate::app::StartError;
use crate::base::VERSION;
use crate::config::{Config, Description, EXIT_CONFIG};
use crate::logs::Sink;
use crate::{alerts, checks, heartbeat};

/// Runs `work` with the log set up, and posts what is left of the log afterwards.
pub(super) async fn with_log<W: Future<Output = ExitCode>>(config: Config, work: impl FnOnce(Config) -> W) -> ExitCode {
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

/// Logs the settings that differ from the default, and at level DEBUG all of them.
pub(super) fn log_configuration(config: &Config, direct: Option<&Description>) {
    tracing::info!("runpod-worker {VERSION} starts. Settings that differ from the default:");
    let parts = || std::iter::once(&config.description).chain(direct);
    for line in parts().flat_map(Description::changes) {
        tracing::info!("{line}");
    }
    tracing::debug!("All settings and limits:");
    for line in parts().chain([&fixed_limits(config)]).flat_map(Description::lines) {
        tracing::debug!("{line}");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// Makes the worker's own fitness checks, and reports the first that fails to the platform and as an alert. Returns whether the
/// worker is fit.
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

/// The exit status of a worker that has ended.
pub(super) fn exit_status(result: Result<u8, StartError>) -> ExitCode {
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

/// The exit status of an unhealthy worker.
pub(super) fn unhealthy(code: u8) -> ExitCode {
    tracing::error!(code, "Stopped because the worker is unhealthy.");
    ExitCode::from(code)
}
