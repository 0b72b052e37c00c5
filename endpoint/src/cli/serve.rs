//! `serve`: the endpoint alone.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Exit;
use super::args::{ListenArgs, ServeArgs};
use super::output::Output;
use super::signals::StopRequests;
use crate::api::Keys;
use crate::server::{Server, ServerConfig, ServerError};
use crate::store::{Limits, MemoryStore, SqliteStore, Status, Store};
use crate::worker_env::worker_env;

/// Payload bytes kept in a data file.
const MAX_FILE_BYTES: usize = 64 << 30;

/// Opens the socket and the store.
pub(crate) async fn open(listen: &ListenArgs) -> Result<(Server, Arc<dyn Store>), ServerError> {
    let config = ServerConfig {
        bind: listen.bind,
        keys: Keys { client: listen.api_key.clone(), worker: listen.worker_key.clone() },
        insecure: listen.insecure_no_auth,
        hold: listen.hold,
        max_result_bytes: usize::from(listen.max_result_mib) << 20,
    };
    let timeout_status = if listen.report_timed_out { Status::TimedOut } else { Status::Failed };
    let limits = Limits { lease: listen.lease, timeout_status, ..Limits::default() };
    let server = Server::bind(config).await?;
    let store: Arc<dyn Store> = match &listen.data {
        // The disk has room for more than memory.
        Some(path) => Arc::new(SqliteStore::open(path, Limits { max_bytes: MAX_FILE_BYTES, ..limits })?),
        None => Arc::new(MemoryStore::new(limits)),
    };
    Ok((server, store))
}

/// The exit status for a server that could not start.
pub(crate) fn exit_for(error: &ServerError) -> Exit {
    match error {
        ServerError::Unprotected(_) | ServerError::EmptyKey => Exit::Usage,
        _ => Exit::Failure,
    }
}

pub(crate) async fn serve(args: &ServeArgs, mut stops: StopRequests, output: &mut Output) -> Exit {
    let (server, store) = match open(&args.listen).await {
        Ok(opened) => opened,
        Err(error) => return output.fail(&error, exit_for(&error)),
    };
    print_banner(&server, args, output);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        stops.next().await;
        stop.cancel();
    });
    match server.run(store, shutdown.clone(), shutdown).await {
        Ok(()) => Exit::Success,
        Err(error) => output.fail(&error, exit_for(&error)),
    }
}

fn print_banner(server: &Server, args: &ServeArgs, output: &mut Output) {
    let base = server.base_url();
    let endpoint = &args.endpoint_id;
    output.line(&format!("RunPod-compatible endpoint: {base}/v2/{endpoint}"));
    output.line("\nFor a worker (any runtime that speaks RunPod's protocol):\n");
    for (name, value) in worker_env(&base, endpoint, "worker-1", None) {
        let value = match name {
            "RUNPOD_AI_API_KEY" if args.listen.worker_key.is_some() => "<the value of --worker-key>",
            _ => &value,
        };
        output.line(&format!("export {name}='{value}'"));
    }
    let key = if args.listen.api_key.is_some() { " -H 'Authorization: Bearer <the value of --api-key>'" } else { "" };
    output.line("\nFor a client:\n");
    output.line(&format!(
        "curl -X POST {base}/v2/{endpoint}/runsync{key} -H 'Content-Type: application/json' -d '{{\"input\": {{\"prompt\": \"hi\"}}}}'"
    ));
    output.line(&format!("export RUNPOD_ENDPOINT_BASE_URL={base}/v2    # for RunPod's Python client\n"));
}
