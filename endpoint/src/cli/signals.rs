//! Ctrl-C and SIGTERM.

use tokio::signal::unix::{SignalKind, signal};

/// Ends at the next SIGINT or SIGTERM. A signal that cannot be watched keeps its default, which ends the process.
pub(crate) async fn stop_requested() {
    tokio::select! {
        () = next(SignalKind::interrupt()) => {}
        () = next(SignalKind::terminate()) => {}
    }
}

async fn next(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::warn!(%error, "a stop signal cannot be watched; stopping will be abrupt");
            std::future::pending::<()>().await;
        }
    }
}
