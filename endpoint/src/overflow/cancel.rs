//! Jobs that must not run at the far endpoint any more.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::client::FarError;
use super::follow::Shared;
use super::limits::{CANCEL_TIME, FIRST_CANCEL_PAUSE, LAST_CANCEL_TIME, LONGEST_CANCEL_PAUSE};
use crate::store::JobId;

/// Has the far endpoint cancel a job, however long it is away. What is not done when this program ends is left to the next one, where the
/// store outlives it.
pub(super) async fn cancel(shared: &Shared, job: &JobId, far_id: &str, leave: &CancellationToken) {
    let deadline = Instant::now() + CANCEL_TIME;
    let mut pause = FIRST_CANCEL_PAUSE;
    let mut outcome = once(shared, far_id, None).await;
    while outcome.is_err() && Instant::now() < deadline {
        if leave.run_until_cancelled(sleep(pause)).await.is_some() {
            pause = (pause * 2).min(LONGEST_CANCEL_PAUSE);
            outcome = once(shared, far_id, None).await;
        } else if shared.resumes {
            return;
        } else {
            outcome = once(shared, far_id, Some(LAST_CANCEL_TIME)).await;
            break;
        }
    }
    if let Err(error) = outcome {
        tracing::warn!(endpoint = %shared.endpoint, %job, far_id, %error, "A job could not be cancelled at the overflow endpoint, and runs there to its end.");
    }
    shared.patiently(job, leave, || shared.store.cancelled_elsewhere(&shared.endpoint, job, far_id)).await;
}

async fn once(shared: &Shared, far_id: &str, longest: Option<Duration>) -> Result<(), FarError> {
    // Never closed.
    let _permit = shared.cancels.acquire().await.ok();
    shared.far.cancel(far_id, longest).await
}
