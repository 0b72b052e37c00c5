//! Jobs that must not run at the far endpoint any more.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::client::FarError;
use super::follow::{Shared, ToCancel};
use super::limits::{CANCEL_TIME, FIRST_CANCEL_PAUSE, LAST_CANCEL_TIME, LONGEST_CANCEL_PAUSE};
use super::spending::dollars;
use super::wire::FarJob;
use crate::store::{JobId, OVERFLOW, Status};

/// Has the far endpoint cancel a job, however long it is away; what the job has cost there, where it may run for `longest`. One that had
/// ended there before is not run again: its result is taken. What is not done when this program ends is left to the next one, where
/// the store outlives it.
pub(super) async fn cancel(
    shared: &Shared,
    job: &JobId,
    to_cancel: &ToCancel,
    longest: Duration,
    leave: &CancellationToken,
) -> f64 {
    let far_id = &*to_cancel.far_id;
    let deadline = Instant::now() + CANCEL_TIME;
    let mut pause = FIRST_CANCEL_PAUSE;
    let mut outcome = once(shared, far_id, None).await;
    while outcome.is_err() && Instant::now() < deadline {
        if leave.run_until_cancelled(sleep(pause)).await.is_some() {
            pause = (pause * 2).min(LONGEST_CANCEL_PAUSE);
            outcome = once(shared, far_id, None).await;
        } else if shared.resumes {
            return 0.0;
        } else {
            outcome = once(shared, far_id, Some(LAST_CANCEL_TIME)).await;
            break;
        }
    }
    // Without a word of it, it has run since it began.
    let mut ran = to_cancel.begun.map(|begun| begun.elapsed().min(longest)).unwrap_or_default();
    let mut reported = None;
    match outcome {
        Ok(Some(ended)) => {
            ran = ended.execution.unwrap_or(ran);
            reported = ended.cost().map(dollars);
            if ended.has_result() && to_cancel.takes_result {
                take_result(shared, job, far_id, ended, leave).await;
            }
        }
        Ok(None) => {}
        Err(error) => {
            ran = longest;
            tracing::warn!(endpoint = %shared.endpoint, %job, far_id, %error, "A job could not be cancelled at the overflow endpoint, and runs there to its end.");
        }
    }
    shared.patiently(job, leave, || shared.store.cancelled_elsewhere(&shared.endpoint, job, far_id)).await;
    if to_cancel.is_paid {
        return 0.0;
    }
    let dollars = reported.or_else(|| shared.settings.price.map(|price| price.of(ran))).unwrap_or_default();
    shared.counts.note(|totals| totals.dollars += dollars);
    dollars
}

async fn once(shared: &Shared, far_id: &str, longest: Option<Duration>) -> Result<Option<FarJob>, FarError> {
    // Never closed.
    let _permit = shared.cancels.acquire().await.ok();
    shared.far.cancel(far_id, longest).await
}

/// Ends the job here, wherever it waits or runs by now. One that streams is run again instead: its items have no place any more.
async fn take_result(shared: &Shared, job: &JobId, far_id: &str, ended: FarJob, leave: &CancellationToken) {
    let Shared { store, endpoint, counts, .. } = shared;
    let here = shared.patiently(job, leave, || store.view(endpoint, job, None)).await;
    if here.is_none_or(|here| here.status.is_terminal()) {
        return;
    }
    if shared.far.stream(far_id).await.is_ok_and(|reply| !reply.stream.is_empty()) {
        return;
    }
    let has_failed = ended.status != Status::Completed;
    let cost = ended.execution.and_then(|ran| shared.settings.price?.cost(ran));
    let mut outcome = ended.outcome();
    outcome.ending.cost = outcome.ending.cost.or(cost);
    if shared.patiently(job, leave, || store.finish(endpoint, OVERFLOW, job, outcome.clone())).await.is_some() {
        tracing::info!(%endpoint, %job, far_id, "A job that counted as lost had ended at the overflow endpoint. Its result is taken.");
        counts.note(|totals| *(if has_failed { &mut totals.failed } else { &mut totals.completed }) += 1);
    }
}
