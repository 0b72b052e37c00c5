//! `dev`: the endpoint and its workers.

use super::args::DevArgs;
use super::exit::Exit;
use super::open::{Extra, open};
use super::output::Output;
use super::signals::StopRequests;
use super::workers;
use crate::fleet::WorkerPlan;

pub(crate) async fn dev(args: &DevArgs, stops: StopRequests, output: &mut Output) -> Exit {
    // Before the socket is opened: nobody should find an endpoint that ends at once.
    if let Err(error) = WorkerPlan::command(args.workers.worker_bin.as_deref(), &[], &args.handler) {
        return output.fail(&error, Exit::Usage);
    }
    let opened = match open(
        &args.listen,
        &Extra { shown: &args.endpoint_id, endpoint: Some(&args.endpoint_id), fault_header: true },
    )
    .await
    {
        Ok(opened) => opened,
        Err(error) => return output.fail(&error, error.exit()),
    };
    let pools = match workers::pools(&opened, &args.endpoint_id, &args.handler, &args.workers) {
        Ok(pools) => pools,
        Err(error) => return output.fail(&error, Exit::Usage),
    };
    let (base_url, endpoint) = (opened.server.base_url(), &args.endpoint_id);
    output.line(&format!("RunPod-compatible endpoint: {base_url}/v2/{endpoint}"));
    output.line(&format!("Console: {base_url}/    API browser: {base_url}/docs"));
    output.line(&format!(
        "Try: runpod-endpoint submit --url {base_url}/v2/{endpoint} --sync '{{\"prompt\": \"hi\"}}'    Stop: Ctrl-C\n"
    ));
    workers::run(opened, pools, stops, output).await
}
