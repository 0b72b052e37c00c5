//! `dev`: the endpoint and its workers.

use serde_json::json;
use tokio::sync::watch;

use super::args::DevArgs;
use super::effective::Effective;
use super::example::example;
use super::exit::Exit;
use super::open::{Extra, Rebuild};
use super::output::Output;
use super::start::{Started, start};
use super::workers;
use crate::fleet::WorkerPlan;
use crate::local::Manifest;

/// For a server with keys, which are not printed.
const KEY: &str = " -H 'Authorization: Bearer <the value of --api-key>'";

pub(crate) async fn dev(args: &DevArgs, effective: Effective, output: &mut Output) -> Exit {
    // Before the socket is opened: clients should not find an endpoint that ends at once.
    if let Err(error) = WorkerPlan::command(args.workers.worker_bin.as_deref(), "run", &[], &args.handler) {
        return output.fail(&error, Exit::Usage);
    }
    let extra = Extra {
        shown: &args.endpoint_id,
        endpoint: Some(&args.endpoint_id),
        only_known: true,
        fault_header: true,
        loopback_webhooks: true,
        warn_of_large_results: true,
        workers: &args.workers,
        handler: &args.handler,
        rebuild: Rebuild::Restart,
    };
    let Started { opened, pools, stops, log: _log } = match start(&args.listen, &extra, effective, output).await {
        Ok(started) => started,
        Err(exit) => return exit,
    };
    let (base_url, endpoint) = (opened.server.base_url(), &args.endpoint_id);
    output.line(&format!("RunPod-compatible endpoint: {base_url}/v2/{endpoint}"));
    output.line(&format!("Console: {base_url}/    API browser: {base_url}/docs"));
    output.line("The handler starts anew when its program is built anew.    Stop: Ctrl-C\n");
    let keys = &args.listen.keys;
    let key = if keys.api_key.is_some() || keys.api_key_file.is_some() { KEY } else { "" };
    tokio::spawn(suggest(opened.local.manifests(), format!("curl -s {base_url}/v2/{endpoint}/runsync{key}")));
    workers::run(opened, pools, stops, output).await
}

/// Prints how to try the handler, and again when a new build of it has another input.
async fn suggest(mut manifests: watch::Receiver<Option<Manifest>>, command: String) {
    let mut last = String::new();
    loop {
        let input = manifests.borrow_and_update().as_ref().map(|manifest| example(&manifest.input_schema));
        if let Some(input) = input {
            let line = format!("{command} -d {}", shell_word(&json!({ "input": input }).to_string()));
            if line != last {
                Output::default().line(&format!("Try: {line}\n"));
                last = line;
            }
        }
        if manifests.changed().await.is_err() {
            return;
        }
    }
}

/// One word of a shell command.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
