//! `runpod-worker run`: takes jobs from the queue.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::fixed_limits::fixed_limits;
use super::lifecycle::{exit_status, is_fit, log_configuration, unhealthy, with_log};
use super::serve::serve;
use super::test::{Checks, DEFAULT_FILE, read_job, report_test, test};
use super::{complain, configure, print};
use crate::base::{ClientError, tls};
use crate::cli::{PythonArgs, RunCommandArgs};
use crate::config::{Config, DirectArgs, EXIT_CONFIG, ProcessEnvironment, load_realtime, load_serve};
use crate::queue::HttpQueue;
use crate::{app, direct};

/// Runs until the worker ends.
pub(super) async fn run(args: &RunCommandArgs) -> ExitCode {
    let RunCommandArgs { python, run } = args;
    let run = python.translated(run);
    let config = match configure(&run) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if run.check_config {
        return print(&format!("{}\n{}", config.description, fixed_limits(&config)));
    }
    let http_bind = run.http_bind.as_deref();
    with_log(config, async |config| work(config, python, http_bind).await).await
}

/// In the order of RunPod's own worker: its local API, the realtime port, one local job, the queue.
async fn work(config: Config, python: &PythonArgs, http_bind: Option<&str>) -> ExitCode {
    if python.rp_debugger {
        tracing::warn!(
            "--rp_debugger has no effect: the times of a job are in the log, in what `runpod-worker test` prints, and in the \
             traces of --otlp-endpoint."
        );
    }
    if python.rp_serve_api {
        return serve_api(config, python, http_bind).await;
    }
    match load_realtime(http_bind, &ProcessEnvironment) {
        Ok(None) => {}
        Ok(Some((direct, description))) => return serve(config, direct, &description, direct::realtime).await,
        Err(errors) => return complain(EXIT_CONFIG, &errors.to_string()),
    }
    let queue = match (&config.queue, &python.test_input) {
        (Some(queue), None) => queue,
        // As RunPod's own worker: without a queue, one local job.
        (None, None) if !Path::new(DEFAULT_FILE).exists() => {
            return complain(
                EXIT_CONFIG,
                "RUNPOD_WEBHOOK_GET_JOB is not set, so there is no queue to take jobs from. To run locally use \
                 `runpod-endpoint dev -- HANDLER`, or `runpod-worker test --input job.json -- HANDLER` for one job",
            );
        }
        (_, given) => {
            return match read_job(None, given.clone()) {
                Ok(job) => report_test(test(config, job, Checks::Skip).await),
                Err(error) => complain(EXIT_CONFIG, &error.to_string()),
            };
        }
    };
    let queue = match HttpQueue::new(queue) {
        Ok(queue) => Arc::new(queue),
        Err(error) => return complain(EXIT_CONFIG, &error.to_string()),
    };
    log_configuration(&config, None);
    if !is_fit(&config).await {
        return unhealthy(1);
    }
    let (started, _) = oneshot::channel();
    let is_https = config.queue.iter().any(|queue| queue.take.is_https() || queue.done.is_https());
    tokio::select! {
        result = app::run(config, queue, Vec::new(), started) => exit_status(result),
        error = unusable_certificates(is_https) => complain(EXIT_CONFIG, &error.to_string()),
    }
}

/// Reads the certificates of the system while the handler starts, if they are needed. Returns only when there are none, because a
/// worker without them would ask its queue in vain for ever.
async fn unusable_certificates(are_needed: bool) -> ClientError {
    if are_needed && let Ok(Err(error)) = tokio::task::spawn_blocking(tls::load_certificates).await {
        return error.into();
    }
    std::future::pending().await
}

async fn serve_api(config: Config, python: &PythonArgs, http_bind: Option<&str>) -> ExitCode {
    let address = python.api_address().to_string();
    let args = DirectArgs { bind: Some(address.clone()), ..DirectArgs::default() };
    match load_serve(&args, http_bind, &ProcessEnvironment) {
        Ok((direct, description)) => {
            tracing::info!(
                "POST http://{address}/runsync runs a job. For an API with all routes: runpod-endpoint dev -- HANDLER"
            );
            serve(config, direct, &description, direct::local_api).await
        }
        Err(errors) => complain(EXIT_CONFIG, &errors.to_string()),
    }
}
