//! Asks the worker program for the schema of its handler.

use crate::local::{Local, Manifest};

use super::process::{WorkerCommand, capture};
use super::rebuild::Rebuilds;

/// Longest answer, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Keeps the manifest of the program, and that of each new build of it.
pub(crate) async fn keep_schema(command: WorkerCommand, local: Local, rebuilds: Option<Rebuilds>) {
    fetch_schema(&command, &local).await;
    let Some(mut rebuilds) = rebuilds else { return };
    loop {
        rebuilds.next().await;
        fetch_schema(&command, &local).await;
    }
}

/// Runs `runpod-worker schema` and keeps the manifest that it prints. Only the console needs it, so a failure is only logged.
async fn fetch_schema(command: &WorkerCommand, local: &Local) {
    let Some(text) = capture(command, MAX_BYTES).await else {
        tracing::debug!("The worker program did not print the handler's schema.");
        return;
    };
    match serde_json::from_slice::<Manifest>(&text) {
        Ok(manifest) => local.set_manifest(manifest),
        Err(error) => tracing::debug!(%error, "The handler's schema is not understood."),
    }
}
