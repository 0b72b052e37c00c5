//! `runpod-worker run`: takes jobs from the queue.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::fixed_limits::fixed_limits;
use super::lifecycle::{exit_status, is_fit, log_configuration, unhealthy, with_log};
use super::serve::serve;
use super::test::{DEFAULT_FILE, read_job, report_test, test};
use super::{complain, configure, print};
use crate::config::{Config, EXIT_CONFIG, ProcessEnvironment, RunArgs, load_realtime};
use crate::queue::HttpQueue;
use crate::{app, direct};

/// Runs until the worker ends.
pub(super) async fn run(args: &RunArgs) -> ExitCode {
    let config = match configure(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if args.check_config {
        return print(&format!("{}\n{}", config.description, fixed_limits(&config)));
    }
    let http_bind = args.http_bind.as_deref();
    with_log(config, async |config| work(config, http_bind).await).await
}

async fn work(config: Config, http_bind: Option<&str>) -> ExitCode {
    match load_realtime(http_bind, &ProcessEnvironment) {
        Ok(None) => {}
        Ok(Some((direct, description))) => return serve(config, direct, &description, direct::realtime).await,
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
    log_configuration(&config, None);
    if !is_fit(&config).await {
        return unhealthy(1);
    }
    let (started, _) = oneshot::channel();
    exit_status(app::run(config, queue, Vec::new(), started).await)
}
