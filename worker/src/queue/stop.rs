//! The job-stop long poll. It runs beside job-take, also while jobs run.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::limits::{RATE_LIMIT_PAUSE, STOP_ERROR_PAUSE_MAX, STOP_PAUSE};
use super::{JobSource, RequestError, StopReply};
use crate::base::{FailureState, Retry};
use runpod_worker_core::Event;

/// Starts the stop channel. It ends with `shutdown`, when nobody listens to the events, or when the URLs have no such channel.
pub fn spawn<S: JobSource>(source: Arc<S>, events: mpsc::Sender<Event>, shutdown: CancellationToken) {
    tokio::spawn(async move { shutdown.run_until_cancelled(run(&*source, &events)).await });
}

async fn run<S: JobSource>(source: &S, events: &mpsc::Sender<Event>) {
    let mut retry = Retry::new(STOP_PAUSE, STOP_ERROR_PAUSE_MAX);
    let mut failing = FailureState::default();
    let outage = source.outage();
    loop {
        let reply = source.stops().await;
        if !matches!(reply, StopReply::Failed { .. }) {
            retry.reset();
            failing.succeed();
        }
        let pause = match reply {
            StopReply::Stop(jobs) => {
                if events.send(Event::Stop(jobs)).await.is_err() {
                    return;
                }
                continue;
            }
            StopReply::Nothing => STOP_PAUSE,
            StopReply::RateLimited { retry_after } => retry_after.unwrap_or_default().max(RATE_LIMIT_PAUSE),
            StopReply::Failed { error, retry_after } => {
                if failing.fail(error.kind()) {
                    report(&error);
                }
                let pause = retry.next(retry_after).max(STOP_PAUSE);
                if retry_after.is_none() && error.is_outage() {
                    if outage.pause_before_poll(pause).await {
                        retry.reset();
                    }
                    continue;
                }
                pause
            }
            StopReply::Unsupported => {
                tracing::warn!(
                    "Running jobs cannot be cancelled: the URL of the stop channel is derived from RUNPOD_WEBHOOK_GET_JOB, \
                     which has no `/job-take/`."
                );
                return;
            }
        };
        sleep(pause).await;
    }
}

fn report(error: &RequestError) {
    if *error == RequestError::Status(404) {
        // An endpoint that is older than the stop channel is no failure of this worker.
        tracing::info!(
            "The queue has no stop channel (404): running jobs cannot be cancelled. The worker goes on asking."
        );
    } else {
        tracing::warn!(%error, "The stop channel does not answer: running jobs cannot be cancelled until it does.");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::queue::TakeReply;
    use runpod_worker_core::JobId;

    /// Gives scripted replies at once, notes when it was asked, then never answers again.
    struct Script {
        replies: Mutex<VecDeque<StopReply>>,
        asked: mpsc::Sender<Instant>,
    }

    impl JobSource for Script {
        async fn take(&self, _want: usize, _holding: bool) -> TakeReply {
            TakeReply::Nothing
        }

        async fn stops(&self) -> StopReply {
            self.asked.try_send(Instant::now()).unwrap();
            let next = self.replies.lock().pop_front();
            match next {
                Some(reply) => reply,
                None => std::future::pending().await,
            }
        }
    }

    /// Runs the script to its end; returns the pauses between the requests and the events.
    async fn run_script(replies: impl IntoIterator<Item = StopReply>) -> (Vec<Duration>, Vec<Event>) {
        let (asked, mut times) = mpsc::channel(100);
        let (sender, mut events) = mpsc::channel(100);
        let source = Script { replies: Mutex::new(replies.into_iter().collect()), asked };
        // The clock is stopped, so this passes as soon as the channel waits for an answer that never comes.
        assert!(timeout(Duration::from_secs(3600), run(&source, &sender)).await.is_err());
        drop((source, sender));
        let mut at = Vec::new();
        while let Some(time) = times.recv().await {
            at.push(time);
        }
        let mut seen = Vec::new();
        while let Some(event) = events.recv().await {
            seen.push(event);
        }
        (at.windows(2).map(|pair| pair[1] - pair[0]).collect(), seen)
    }

    fn failed(code: u16) -> StopReply {
        StopReply::Failed { error: RequestError::from_status(code), retry_after: None }
    }

    #[tokio::test(start_paused = true)]
    async fn stops_become_events_and_the_next_request_follows_at_once() {
        let (pauses, events) = run_script([StopReply::Stop(vec![JobId::from("a"), JobId::from("b")])]).await;
        assert_eq!(pauses, [Duration::ZERO]);
        assert!(matches!(&events[..], [Event::Stop(jobs)] if jobs.len() == 2), "{events:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_asked_for_more_than_once_a_second() {
        let limited = StopReply::RateLimited { retry_after: None };
        let (pauses, events) = run_script([StopReply::Nothing, limited, failed(404), failed(404), failed(500)]).await;
        assert!(events.is_empty());
        assert!(pauses.iter().all(|pause| *pause >= STOP_PAUSE && *pause <= STOP_ERROR_PAUSE_MAX), "{pauses:?}");
        assert!(pauses[0] < Duration::from_millis(1_010) && pauses[1] >= RATE_LIMIT_PAUSE, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_when_the_queue_has_no_stop_channel() {
        let (asked, _times) = mpsc::channel(1);
        let (sender, _events) = mpsc::channel(1);
        let source = Script { replies: Mutex::new([StopReply::Unsupported].into()), asked };
        timeout(Duration::from_secs(3600), run(&source, &sender)).await.expect("it ends by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_a_request_in_flight() {
        let (asked, mut times) = mpsc::channel(1);
        let (sender, mut events) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        spawn(Arc::new(Script { replies: Mutex::default(), asked }), sender, shutdown.clone());
        times.recv().await.unwrap();
        shutdown.cancel();
        assert!(events.recv().await.is_none(), "the task is gone and with it its sender");
    }
}
