//! The job-take long poll. Each poll that the dispatcher asks for ends with exactly one event.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits::{
    ERROR_PAUSE, ERROR_PAUSE_MAX, MAX_QUICK_POLLS, MAX_WAITING_POLLS, QUICK_PAUSE, QUICK_PAUSE_MAX, QUICK_POLL,
    RATE_LIMIT_PAUSE,
};
use super::{JobSource, Outage, RequestError, TakeReply};
use crate::base::{FailureState, Retry};
use runpod_worker_core::{Event, PollAnswer};

struct Request {
    want: usize,
    holding: bool,
    abort: CancellationToken,
}

/// Starts polls. Neither call blocks.
#[derive(Debug)]
pub struct PollHandle {
    requests: mpsc::Sender<Request>,
    latest: Mutex<CancellationToken>,
}

impl PollHandle {
    /// Asks for up to `want` jobs. Ends with one `Event::Poll`. At most one poll may be in flight.
    pub fn poll(&self, want: usize, holding: bool) {
        let abort = CancellationToken::new();
        *self.latest.lock() = abort.clone();
        if self.requests.try_send(Request { want, holding, abort }).is_err() {
            tracing::error!("A poll was asked for while others wait, or after shutdown. It is not made.");
        }
    }

    /// Gives up the poll in flight, if there is one. It still ends with its event.
    pub fn abort(&self) {
        self.latest.lock().cancel();
    }
}

/// Starts the poll task. It ends when the handle is dropped or nobody listens to the events.
pub fn spawn<S: JobSource>(source: Arc<S>, events: mpsc::Sender<Event>) -> PollHandle {
    let (requests, mut inbox) = mpsc::channel::<Request>(MAX_WAITING_POLLS);
    tokio::spawn(async move {
        let mut poller = Poller::new(source);
        let outage = poller.outage.clone();
        // While the queue is away, the pause that the dispatcher keeps is ended from here.
        let mut is_away = false;
        loop {
            let request = tokio::select! {
                request = inbox.recv() => request,
                _ = outage.pause_before_poll(ERROR_PAUSE_MAX), if is_away => {
                    is_away = false;
                    if events.send(Event::PollAgain).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let Some(request) = request else { return };
            let answer = poller.poll(&request).await;
            is_away = poller.is_away;
            if events.send(Event::Poll(answer)).await.is_err() {
                return;
            }
        }
    });
    PollHandle { requests, latest: Mutex::default() }
}

struct Poller<S> {
    source: Arc<S>,
    outage: Outage,
    errors: Retry,
    quick: Retry,
    quick_in_a_row: u32,
    failing: FailureState<(&'static str, u16)>,
    /// The last poll has failed because the queue is away.
    is_away: bool,
}

impl<S: JobSource> Poller<S> {
    fn new(source: Arc<S>) -> Self {
        Self {
            outage: source.outage(),
            source,
            errors: Retry::new(ERROR_PAUSE, ERROR_PAUSE_MAX),
            quick: Retry::new(QUICK_PAUSE, QUICK_PAUSE_MAX),
            quick_in_a_row: 0,
            failing: FailureState::default(),
            is_away: false,
        }
    }

    async fn poll(&mut self, request: &Request) -> PollAnswer {
        let started = Instant::now();
        self.is_away = false;
        let reply = tokio::select! {
            // An answer that has arrived comes first: dropping it would lose its jobs.
            biased;
            reply = self.source.take(request.want, request.holding) => reply,
            () = request.abort.cancelled() => return PollAnswer::Aborted,
        };
        if !matches!(reply, TakeReply::Nothing) {
            self.quick_in_a_row = 0;
            self.quick.reset();
        }
        match reply {
            TakeReply::Jobs(jobs) => {
                self.succeeded();
                PollAnswer::Jobs(jobs)
            }
            TakeReply::Nothing => {
                self.succeeded();
                self.nothing(started.elapsed())
            }
            TakeReply::RateLimited { retry_after } => {
                self.succeeded();
                PollAnswer::RateLimited { retry_after: retry_after.unwrap_or_default().max(RATE_LIMIT_PAUSE) }
            }
            // The queue is away and has not named a time: the pause ends with the outage.
            TakeReply::Failed { error, retry_after: None } if error.is_outage() && self.outage.is_on() => {
                self.is_away = true;
                self.failed(&error, None);
                PollAnswer::Failed { retry_after: ERROR_PAUSE_MAX, reason: error.to_string() }
            }
            TakeReply::Failed { error, retry_after } => {
                let retry_after = self.errors.next(retry_after);
                self.failed(&error, Some(retry_after));
                PollAnswer::Failed { retry_after, reason: error.to_string() }
            }
        }
    }

    fn nothing(&mut self, took: Duration) -> PollAnswer {
        if took >= QUICK_POLL {
            self.quick_in_a_row = 0;
            self.quick.reset();
            return PollAnswer::Empty;
        }
        self.quick_in_a_row = self.quick_in_a_row.saturating_add(1);
        if self.quick_in_a_row < MAX_QUICK_POLLS {
            return PollAnswer::Empty;
        }
        if self.quick_in_a_row == MAX_QUICK_POLLS {
            tracing::warn!("The queue answers \"no job\" at once instead of holding the request. Polling slows down.");
        }
        let reason = "the queue answers \"no job\" at once instead of holding the request".to_owned();
        PollAnswer::Failed { retry_after: self.quick.next(None), reason }
    }

    fn succeeded(&mut self) {
        self.errors.reset();
        if self.failing.succeed() {
            tracing::info!("The queue answers again.");
        }
    }

    fn failed(&mut self, error: &RequestError, retry_in: Option<Duration>) {
        if self.failing.fail(error.kind()) {
            tracing::warn!(%error, ?retry_in, "No jobs can be taken.");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;
    use crate::queue::StopReply;
    use runpod_worker_core::{JobId, TakenJob};

    /// Gives scripted replies after scripted times, then never answers again.
    struct Script {
        replies: Mutex<VecDeque<(Duration, TakeReply)>>,
        takes: AtomicUsize,
    }

    impl Script {
        fn new(replies: impl IntoIterator<Item = (u64, TakeReply)>) -> Arc<Self> {
            let replies = replies.into_iter().map(|(millis, reply)| (Duration::from_millis(millis), reply)).collect();
            Arc::new(Self { replies: Mutex::new(replies), takes: AtomicUsize::new(0) })
        }
    }

    impl JobSource for Script {
        async fn take(&self, _want: usize, _holding: bool) -> TakeReply {
            self.takes.fetch_add(1, Ordering::SeqCst);
            let next = self.replies.lock().pop_front();
            match next {
                Some((Duration::ZERO, reply)) => reply,
                Some((wait, reply)) => {
                    sleep(wait).await;
                    reply
                }
                None => std::future::pending().await,
            }
        }

        async fn stops(&self) -> StopReply {
            StopReply::Unsupported
        }
    }

    struct Rig {
        handle: PollHandle,
        events: mpsc::Receiver<Event>,
    }

    impl Rig {
        fn new(source: &Arc<Script>) -> Self {
            let (sender, events) = mpsc::channel(1);
            Self { handle: spawn(Arc::clone(source), sender), events }
        }

        async fn answer(&mut self) -> PollAnswer {
            match self.events.recv().await {
                Some(Event::Poll(answer)) => answer,
                other => panic!("expected the end of a poll, got {other:?}"),
            }
        }

        async fn poll(&mut self) -> PollAnswer {
            self.handle.poll(1, false);
            self.answer().await
        }
    }

    fn job() -> TakeReply {
        let id = JobId::from("j");
        TakeReply::Jobs(vec![TakenJob::new(id, Ok("{}".into()))])
    }

    fn failure(code: u16, retry_after: Option<Duration>) -> TakeReply {
        TakeReply::Failed { error: RequestError::from_status(code), retry_after }
    }

    fn pause(answer: &PollAnswer) -> Duration {
        match answer {
            PollAnswer::Failed { retry_after, .. } | PollAnswer::RateLimited { retry_after } => *retry_after,
            other => panic!("expected a pause, got {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_poll_has_one_answer() {
        let source = Script::new([(100, job()), (100, TakeReply::Nothing), (100, failure(500, None))]);
        let mut rig = Rig::new(&source);
        assert!(matches!(rig.poll().await, PollAnswer::Jobs(jobs) if jobs.len() == 1));
        assert!(matches!(rig.poll().await, PollAnswer::Empty));
        assert!(matches!(rig.poll().await, PollAnswer::Failed { .. }));
        assert_eq!(source.takes.load(Ordering::SeqCst), 3);
        assert!(rig.events.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_abort_ends_the_poll_in_flight_and_not_the_next_one() {
        let source = Script::new([(60_000, job()), (100, job())]);
        let mut rig = Rig::new(&source);
        rig.handle.poll(1, false);
        rig.handle.abort();
        assert!(matches!(rig.answer().await, PollAnswer::Aborted));
        // Nothing is in flight now, so this abort must not hit the next poll.
        rig.handle.abort();
        assert!(matches!(rig.poll().await, PollAnswer::Jobs(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_has_arrived_is_kept_despite_an_abort() {
        let source = Script::new([(0, job())]);
        let mut rig = Rig::new(&source);
        rig.handle.poll(1, false);
        rig.handle.abort();
        assert!(matches!(rig.answer().await, PollAnswer::Jobs(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_pauses_for_five_seconds_or_longer() {
        let wait = |seconds| Some(Duration::from_secs(seconds));
        let limited = |retry_after| (1, TakeReply::RateLimited { retry_after });
        let source = Script::new([limited(None), limited(wait(1)), limited(wait(20))]);
        let mut rig = Rig::new(&source);
        for expected in [5, 5, 20] {
            let answer = rig.poll().await;
            assert!(matches!(answer, PollAnswer::RateLimited { .. }));
            assert_eq!(pause(&answer), Duration::from_secs(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_with_each_error_until_a_success() {
        let replies = (0..20).map(|_| (1, failure(500, None))).chain([(1, job()), (1, failure(500, None))]);
        let source = Script::new(replies.collect::<Vec<_>>());
        let mut rig = Rig::new(&source);
        let mut total = Duration::ZERO;
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            last = pause(&rig.poll().await);
            assert!(last <= ERROR_PAUSE_MAX);
            total += last;
        }
        assert!(total >= Duration::from_secs(20), "on average at most one attempt per second: {total:?}");
        assert!(last >= Duration::from_secs(9), "{last:?}");
        assert!(matches!(rig.poll().await, PollAnswer::Jobs(_)));
        assert!(pause(&rig.poll().await) <= Duration::from_millis(1_501));
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_of_the_queue_is_kept() {
        let source = Script::new([(1, failure(503, Some(Duration::from_secs(44))))]);
        let mut rig = Rig::new(&source);
        assert_eq!(pause(&rig.poll().await), Duration::from_secs(44));
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_does_not_hold_polls_is_polled_less_often() {
        let quick = |_| (1, TakeReply::Nothing);
        let replies = (0..10).map(quick).chain([(80, TakeReply::Nothing)]).chain((0..2).map(quick));
        let source = Script::new(replies.collect::<Vec<_>>());
        let mut rig = Rig::new(&source);
        for _ in 1..MAX_QUICK_POLLS {
            assert!(matches!(rig.poll().await, PollAnswer::Empty));
        }
        for _ in MAX_QUICK_POLLS..=10 {
            assert!(pause(&rig.poll().await) <= QUICK_PAUSE_MAX);
        }
        assert!(matches!(rig.poll().await, PollAnswer::Empty), "held long enough");
        assert!(matches!(rig.poll().await, PollAnswer::Empty), "the count starts again");
    }
}
