//! One endpoint of the store: its state machine, its timers, and the polls of its workers.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::store::backing::{Backing, Entry};
use crate::store::clock::{Clock, Timestamp};
use crate::store::queue::{Mark, Queue};
use crate::store::views::{Overdue, TakenJob};
use crate::store::wakers::{REFUSED_HOLD, Wakers};
use crate::store::workers::OVERFLOW;

/// One endpoint's state machine and the requests that wait for it.
pub(super) struct Endpoint<B: Backing> {
    pub(super) key: u32,
    clock: Clock,
    backing: Arc<B>,
    /// The state machine and the mark of its latest change.
    queue: Mutex<(Queue<B::Content>, Mark)>,
    pub(super) wakers: Arc<Wakers>,
}

impl<B: Backing> Endpoint<B> {
    pub(super) fn start(
        key: u32,
        queue: Queue<B::Content>,
        clock: Clock,
        backing: &Arc<B>,
        wakers: Wakers,
    ) -> Arc<Self> {
        let wakers = Arc::new(wakers);
        let backing = Arc::clone(backing);
        let endpoint = Arc::new(Self { key, clock, backing, queue: Mutex::new((queue, 0)), wakers });
        tokio::spawn(run_timers(Arc::downgrade(&endpoint), Arc::clone(&endpoint.wakers)));
        endpoint
    }

    /// Runs one operation at the current time and performs its effects. The result lasts once the mark is settled.
    pub(super) fn with<T>(&self, operation: impl FnOnce(&mut Queue<B::Content>, Timestamp) -> T) -> (T, Mark) {
        let (result, effects, sooner, mark) = {
            let mut locked = self.queue.lock();
            let (queue, mark) = &mut *locked;
            let now = self.clock.now();
            let before = queue.next_deadline();
            queue.tick(now);
            let result = operation(queue, now);
            let after = queue.next_deadline();
            let sooner = after.is_some_and(|after| before.is_none_or(|before| after < before));
            let mut effects = queue.take_effects();
            if let Some(changes) = queue.take_changes() {
                let (effects, wakers) = (std::mem::take(&mut effects), Arc::clone(&self.wakers));
                let jobs = changes.jobs();
                *mark = self.backing.append(Entry { endpoint: self.key, changes, effects, wakers });
                queue.mark(&jobs, *mark);
            }
            (result, effects, sooner, *mark)
        };
        if sooner {
            self.wakers.timer.notify_one();
        }
        for effect in effects {
            self.wakers.perform(&effect);
        }
        (result, mark)
    }

    /// Takes jobs; waits for the first one until `deadline`.
    pub(super) async fn take<'a>(&'a self, worker: &'a str, max: usize, deadline: Instant) -> Taken<'a, B> {
        loop {
            let mut woken = std::pin::pin!(self.wakers.jobs_waiting.notified());
            // Registers before the look into the queue, so that a job submitted in between wakes this poll.
            woken.as_mut().enable();
            let ((jobs, eligible), mark) =
                self.with(|queue, now| (queue.take(now, worker, max), queue.is_eligible(worker)));
            let taken = Taken::new(self, worker, jobs, mark);
            if !taken.jobs.is_empty() {
                return taken;
            }
            if !eligible {
                // Its wake-up belongs to another poll. This one is held all the same: after an empty answer the worker would
                // poll again at once.
                if self.with(|queue, _| queue.has_waiting()).0 {
                    self.wakers.jobs_waiting.notify_one();
                }
                sleep_until(deadline.min(Instant::now() + REFUSED_HOLD)).await;
                return taken;
            }
            if timeout_at(deadline, woken).await.is_err() {
                return taken;
            }
        }
    }
}

impl<B: Backing> Endpoint<B> {
    /// Takes jobs that have waited for too long.
    pub(super) fn take_overdue(&self, overdue: &Overdue) -> Taken<'_, B> {
        let (jobs, mark) = self.with(|queue, now| queue.take_overdue(now, overdue));
        Taken::new(self, OVERFLOW, jobs, mark)
    }
}

impl<B: Backing> Drop for Endpoint<B> {
    fn drop(&mut self) {
        self.wakers.timer.notify_one();
    }
}

/// Performs what is due, for as long as the endpoint exists.
async fn run_timers<B: Backing>(endpoint: Weak<Endpoint<B>>, wakers: Arc<Wakers>) {
    loop {
        let next = {
            let Some(endpoint) = endpoint.upgrade() else { return };
            endpoint.with(|queue, _| queue.next_deadline()).0.map(|at| endpoint.clock.instant(at))
        };
        match next {
            Some(next) => {
                let _ = timeout_at(next, wakers.timer.notified()).await;
                // When more is due than one tick does, others get a turn in between.
                tokio::task::yield_now().await;
            }
            None => wakers.timer.notified().await,
        }
    }
}

/// Jobs that were taken and not yet passed on. They go back when the poll ends before that.
pub(super) struct Taken<'a, B: Backing> {
    endpoint: &'a Endpoint<B>,
    worker: &'a str,
    pub(super) jobs: Vec<TakenJob<B::Content>>,
    pub(super) mark: Mark,
}

impl<'a, B: Backing> Taken<'a, B> {
    fn new(endpoint: &'a Endpoint<B>, worker: &'a str, jobs: Vec<TakenJob<B::Content>>, mark: Mark) -> Self {
        Self { endpoint, worker, jobs, mark }
    }
}

impl<B: Backing> Drop for Taken<'_, B> {
    fn drop(&mut self) {
        if !self.jobs.is_empty() {
            self.endpoint.with(|queue, _| {
                for job in &self.jobs {
                    queue.return_unsent(self.worker, &job.id, job.attempt);
                }
            });
        }
    }
}

/// A poll that is held open; its end is noted in the state machine, however it ends.
pub(super) struct Poll<'a, B: Backing> {
    endpoint: &'a Endpoint<B>,
    worker: &'a str,
    asks_for: AsksFor,
    /// False for as long as the worker may hang up.
    answered: bool,
}

/// What a poll asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AsksFor {
    Jobs,
    Stops,
    /// A poll for stop signals of a worker that is not known yet is not counted.
    StopsUnknown,
}

impl<'a, B: Backing> Poll<'a, B> {
    pub(super) fn for_jobs(endpoint: &'a Endpoint<B>, worker: &'a str) -> Self {
        endpoint.with(|queue, now| queue.poll_started(now, worker));
        Self { endpoint, worker, asks_for: AsksFor::Jobs, answered: false }
    }

    pub(super) fn for_stops(endpoint: &'a Endpoint<B>, worker: &'a str) -> Self {
        let (known, _) = endpoint.with(|queue, now| queue.stop_poll_started(now, worker));
        let asks_for = if known { AsksFor::Stops } else { AsksFor::StopsUnknown };
        Self { endpoint, worker, asks_for, answered: false }
    }

    /// The poll got its answer: the worker did not hang up.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl<B: Backing> Drop for Poll<'_, B> {
    fn drop(&mut self) {
        let (worker, answered) = (self.worker, self.answered);
        self.endpoint.with(|queue, now| match self.asks_for {
            AsksFor::Jobs => queue.poll_ended(now, worker, answered),
            AsksFor::Stops => queue.stop_poll_ended(now, worker, answered),
            AsksFor::StopsUnknown => {}
        });
    }
}
