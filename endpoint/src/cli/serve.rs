//! `serve`: the endpoint, with or without local workers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::effective::Effective;
use super::exit::Exit;
use super::open::{Extra, Opened, Rebuild};
use super::output::Output;
use super::start::{Started, start};
use super::workers;
use crate::server::Server;
use crate::worker_env::worker_env;

pub(crate) async fn serve(args: &ServeArgs, effective: Effective, output: &mut Output) -> Exit {
    let endpoint = (!args.handler.is_empty()).then_some(&*args.endpoint_id);
    let extra = Extra {
        shown: &args.endpoint_id,
        endpoint,
        only_known: false,
        fault_header: args.listen.faults.allow_fault_header,
        loopback_webhooks: false,
        warn_of_large_results: false,
        workers: &args.workers,
        handler: &args.handler,
        rebuild: Rebuild::Ignore,
    };
    let Started { opened, pools, stops, log: _log } = match start(&args.listen, &extra, effective, output).await {
        Ok(started) => started,
        Err(exit) => return exit,
    };
    let lease = opened.config.lease(&args.endpoint_id).unwrap_or(args.listen.jobs.lease);
    print_banner(&opened.server, args, lease, output);
    for (endpoint, address) in opened.fronts.addresses() {
        output.line(&format!("Load balancer of endpoint {endpoint}: http://{address}/"));
    }
    if !pools.is_empty() {
        return workers::run(opened, pools, stops, output).await;
    }
    let mut stops = stops;
    let Opened { server, store, webhooks, alerts, overflow, .. } = opened;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        stops.next().await;
        stop.cancel();
    });
    webhooks.start(shutdown.clone());
    alerts.start(Arc::clone(&store), shutdown.clone());
    let overflow = overflow.start(&shutdown, &shutdown);
    server.run(Arc::clone(&store), shutdown.clone(), shutdown).await;
    let _ = overflow.await;
    store.leave().await;
    Exit::Success
}

fn print_banner(server: &Server, args: &ServeArgs, lease: Duration, output: &mut Output) {
    let base = server.base_url();
    let endpoint = &args.endpoint_id;
    output.line(&format!("RunPod-compatible endpoint: {base}/v2/{endpoint}"));
    output.line(&format!("Console: {base}/    API browser: {base}/docs"));
    output.line("\nFor a worker (any runtime that speaks RunPod's protocol):\n");
    for (name, value) in worker_env(&base, endpoint, "worker", None, lease) {
        if name == "RUNPOD_POD_ID" {
            // The number of the shell: the same lines in a second shell give another id.
            output.line(&format!("export {name}=\"{value}-$$\"    # every worker needs an id of its own"));
            continue;
        }
        let value = match name {
            "RUNPOD_AI_API_KEY"
                if args.listen.keys.worker_key.is_some() || args.listen.keys.worker_key_file.is_some() =>
            {
                "<the value of --worker-key>"
            }
            _ => &value,
        };
        output.line(&format!("export {name}='{value}'"));
    }
    let key = if args.listen.keys.api_key.is_some() || args.listen.keys.api_key_file.is_some() {
        " -H 'Authorization: Bearer <the value of --api-key>'"
    } else {
        ""
    };
    output.line("\nFor a client:\n");
    output.line(&format!(
        "curl -X POST {base}/v2/{endpoint}/runsync{key} -H 'Content-Type: application/json' -d '{{\"input\": {{\"prompt\": \"hi\"}}}}'"
    ));
    output.line(&format!("export RUNPOD_ENDPOINT_BASE_URL={base}/v2    # for RunPod's Python client\n"));
}
