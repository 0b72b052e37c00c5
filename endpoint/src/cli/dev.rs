//! `dev`: the endpoint and its workers.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::args::DevArgs;
use super::output::Output;
use super::signals::StopRequests;
use super::{Exit, serve};
use crate::dev::{DevError, StopSignals, WorkerPlan, run_workers};

pub(crate) async fn dev(args: &DevArgs, stops: StopRequests, output: &mut Output) -> Exit {
    let command = match WorkerPlan::command(args.worker_bin.as_deref(), &args.worker_args, &args.handler) {
        Ok(command) => command,
        Err(error) => return output.fail(&error, Exit::Usage),
    };
    let (server, store) = match serve::open(&args.listen).await {
        Ok(opened) => opened,
        Err(error) => return output.fail(&error, serve::exit_for(&error)),
    };
    let base_url = server.base_url();
    let endpoint = args.endpoint_id.clone();
    output.line(&format!("RunPod-compatible endpoint: {base_url}/v2/{endpoint}"));
    output.line(&format!(
        "Try: runpod-endpoint submit --url {base_url}/v2/{endpoint} --sync '{{\"prompt\": \"hi\"}}'    Stop: Ctrl-C\n"
    ));

    let stop = StopSignals { soon: CancellationToken::new(), now: CancellationToken::new() };
    tokio::spawn(pass_on(stops, stop.clone()));
    let plan = WorkerPlan {
        endpoint,
        base_url,
        worker_key: args.listen.worker_key.clone(),
        command,
        http_port: args.worker_http_port,
        stop_grace: args.stop_grace,
    };
    // The server outlives the workers, so that they can deliver what they finish last.
    let close = CancellationToken::new();
    let serving = server.run(Arc::clone(&store), stop.soon.clone(), close.clone());
    let working = async {
        let outcome = run_workers(plan, args.workers, store, stop.clone()).await;
        close.cancel();
        outcome
    };
    let mut serving = std::pin::pin!(serving);
    let mut working = std::pin::pin!(working);
    let (served, worked) = tokio::select! {
        served = &mut serving => {
            stop.soon.cancel();
            (served, working.await)
        }
        worked = &mut working => (serving.await, worked),
    };
    match (worked, served) {
        (Err(error @ DevError::Configuration), _) => output.fail(&error, Exit::Usage),
        (Err(error), _) => output.fail(&error, Exit::Failure),
        (_, Err(error)) => output.fail(&error, Exit::Failure),
        (Ok(()), Ok(())) => Exit::Success,
    }
}

/// The first signal lets jobs finish, the second one does not.
async fn pass_on(mut stops: StopRequests, stop: StopSignals) {
    stops.next().await;
    tracing::info!("stopping: workers finish their jobs; press Ctrl-C again to skip that");
    stop.soon.cancel();
    stops.next().await;
    stop.now.cancel();
}
