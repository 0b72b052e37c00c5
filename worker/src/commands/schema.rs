//! `runpod-worker schema`: prints the handler's manifest. No model is loaded.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{Manifest, PROTOCOL_VERSION, ToSupervisor};
use tokio::sync::mpsc;

use super::{complain, print};
use crate::cli::HandlerArgs;
use crate::process::{HandlerCommand, Processes};
use runpod_worker_core::{Event, Incarnation, ProcessEvent, ProcessId};

/// Longest time until the handler introduces itself.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why the schema cannot be printed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The program cannot be started.
    #[error("{0}")]
    Start(String),
    /// The program ended without an introduction.
    #[error("the handler ended before it introduced itself: is it built with runpod-handler-sdk?")]
    NoHandler,
    /// The program did not introduce itself in time.
    #[error("the handler did not introduce itself within {TIMEOUT:?}: is it built with runpod-handler-sdk?")]
    Silent,
    /// The handler was built with another version of the protocol.
    #[error("the handler speaks protocol {0}, this worker speaks {PROTOCOL_VERSION}: build both from the same version")]
    Protocol(u32),
    /// The manifest cannot be parsed.
    #[error("the handler's manifest cannot be read: {0}")]
    Manifest(#[from] serde_json::Error),
}

/// Prints the manifest.
pub(super) async fn schema_command(args: HandlerArgs) -> ExitCode {
    match schema(args).await.and_then(|manifest| Ok(serde_json::to_string_pretty(&manifest)?)) {
        Ok(text) => print(&text),
        Err(error) => complain(1, &error.to_string()),
    }
}

/// Starts the handler, reads its introduction and ends it again.
async fn schema(args: HandlerArgs) -> Result<Manifest, SchemaError> {
    let mut handler = args.handler.into_iter();
    let program = handler.next().unwrap_or_default().into();
    let command = HandlerCommand { program, args: handler.collect(), env: Vec::new() };
    let (events, mut inbox) = mpsc::channel(16);
    let mut processes = Processes::new(command, events);
    processes.spawn(ProcessId(0), Incarnation(1));
    let introduced = async {
        while let Some(event) = inbox.recv().await {
            let Event::Process { event, .. } = event else { continue };
            match event {
                ProcessEvent::SpawnFailed { reason, .. } => return Err(SchemaError::Start(reason)),
                ProcessEvent::Exited(_) | ProcessEvent::BadFrame { .. } | ProcessEvent::Oversize { .. } => break,
                ProcessEvent::Message { message: ToSupervisor::Hello { protocol, .. }, payload } => {
                    return manifest(protocol, &payload);
                }
                ProcessEvent::Spawned { .. } | ProcessEvent::Message { .. } | ProcessEvent::Memory { .. } => {}
            }
        }
        Err(SchemaError::NoHandler)
    };
    let result = tokio::time::timeout(TIMEOUT, introduced).await.unwrap_or(Err(SchemaError::Silent));
    processes.kill(ProcessId(0));
    result
}

fn manifest(protocol: u32, payload: &Bytes) -> Result<Manifest, SchemaError> {
    if protocol != PROTOCOL_VERSION {
        return Err(SchemaError::Protocol(protocol));
    }
    Ok(serde_json::from_slice(payload)?)
}
