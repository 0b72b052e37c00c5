//! Asks the worker program what the handler wants.

use crate::local::{Local, Manifest};

use super::spawn::{WorkerCommand, capture};

/// Longest answer, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Runs `runpod-worker schema` and notes what it prints. Only the console needs it, so a failure is only logged.
pub(crate) async fn learn(command: WorkerCommand, local: Local) {
    let Some(text) = capture(&command, MAX_BYTES).await else {
        tracing::debug!("the worker program did not tell the handler's schema");
        return;
    };
    match serde_json::from_slice::<Manifest>(&text) {
        Ok(manifest) => local.set_manifest(manifest),
        Err(error) => tracing::debug!(%error, "the handler's schema is not understood"),
    }
}
