//! `dev`: the endpoint and its workers.

use super::args::DevArgs;
use super::effective::Effective;
use super::exit::Exit;
use super::open::Extra;
use super::output::Output;
use super::start::{Started, start};
use super::workers;
use crate::fleet::WorkerPlan;

pub(crate) async fn dev(args: &DevArgs, effective: Effective, output: &mut Output) -> Exit {
    // Before the socket is opened: clients should not find an endpoint that ends at once.
    if let Err(error) = WorkerPlan::command(args.workers.worker_bin.as_deref(), &[], &args.handler) {
        return output.fail(&error, Exit::Usage);
    }
    let extra = Extra {
        shown: &args.endpoint_id,
        endpoint: Some(&args.endpoint_id),
        fault_header: true,
        warn_of_large_results: true,
        workers: &args.workers,
        handler: &args.handler,
    };
    let Started { opened, pools, stops, log: _log } = match start(&args.listen, &extra, effective, output).await {
        Ok(started) => started,
        Err(exit) => return exit,
    };
    let (base_url, endpoint) = (opened.server.base_url(), &args.endpoint_id);
    output.line(&format!("RunPod-compatible endpoint: {base_url}/v2/{endpoint}"));
    output.line(&format!("Console: {base_url}/    API browser: {base_url}/docs"));
    output.line(&format!(
        "Try: runpod-endpoint submit --url {base_url}/v2/{endpoint} --sync '{{\"prompt\": \"hi\"}}'    Stop: Ctrl-C\n"
    ));
    workers::run(opened, pools, stops, output).await
}
