//! The thread that transfers files. All transfers of the process share it, so a handler without files has none.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::mpsc::sync_channel;
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::file_error::FileError;

static RUNTIME: LazyLock<io::Result<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).thread_name("files").enable_all().build());

fn runtime() -> Result<&'static Runtime, FileError> {
    RUNTIME.as_ref().map_err(|error| FileError::Machine(error.to_string()))
}

/// Runs a transfer and blocks until it ends.
pub(crate) fn wait<T: Send + 'static>(
    transfer: impl Future<Output = Result<T, FileError>> + Send + 'static,
) -> Result<T, FileError> {
    let (done, outcome) = sync_channel(1);
    runtime()?.spawn(async move {
        let _ = done.send(transfer.await);
    });
    outcome.recv().unwrap_or_else(|_| Err(panicked()))
}

/// Runs a transfer and passes its outcome on, from the thread of the transfers. Never blocks.
pub(crate) fn then<T: Send + 'static>(
    transfer: impl Future<Output = Result<T, FileError>> + Send + 'static,
    pass_on: impl FnOnce(Result<T, FileError>) + Send + 'static,
) {
    match runtime() {
        // The transfer is a task of its own, so that the outcome of one that panics is passed on, too.
        Ok(runtime) => drop(runtime.spawn(async move { pass_on(join(transfer).await) })),
        Err(error) => pass_on(Err(error)),
    }
}

/// Runs a transfer on its own thread, whatever runtime the caller has. Dropping the future ends the transfer.
pub(crate) async fn join<T: Send + 'static>(
    transfer: impl Future<Output = Result<T, FileError>> + Send + 'static,
) -> Result<T, FileError> {
    Transfer(runtime()?.spawn(transfer)).await
}

struct Transfer<T>(JoinHandle<Result<T, FileError>>);

impl<T> Future for Transfer<T> {
    type Output = Result<T, FileError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|joined| joined.unwrap_or_else(|_| Err(panicked())))
    }
}

impl<T> Drop for Transfer<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn panicked() -> FileError {
    FileError::Machine("the transfer panicked; the reason is in the log".to_owned())
}
