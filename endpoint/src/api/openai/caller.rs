//! The caller of an OpenAI route, who is the only one to know its job.

use std::sync::Arc;

use super::super::app::App;

/// Cancels the job when its caller disconnects: no other client knows its id.
pub(super) struct CancelOnDrop {
    pub(super) app: App,
    pub(super) endpoint: String,
    pub(super) job: Option<Arc<str>>,
}

impl CancelOnDrop {
    pub(super) fn disarm(mut self) {
        self.job = None;
    }

    /// Cancels it at once: at the end of the program nothing that is left to do later may run.
    pub(super) async fn cancel(self) {
        if let Some(job) = &self.job {
            // A job that has ended since then changes nothing.
            let _ = self.app.store.cancel(&self.endpoint, job).await;
        }
        self.disarm();
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let (store, endpoint) = (Arc::clone(&self.app.store), std::mem::take(&mut self.endpoint));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Cancelling a job that has ended changes nothing.
            runtime.spawn(async move { store.cancel(&endpoint, &job).await });
        }
    }
}
