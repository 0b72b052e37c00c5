//! Whether the queue is away, and how the parts of the worker wait for it.
//!
//! Every request records its outcome here. While the queue is away, the parts that wait share one series of tries: one of them
//! tries about once a second. The first answer to any request ends the outage and wakes them all.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::limits::{HELD_POLL, MIN_PAUSE, PROBE_INTERVAL, PROBE_JITTER};

/// Whether the queue is away at the moment. Clones share it.
#[derive(Clone, Debug)]
pub struct Outage(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The number of outages that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// While the queue is away: when the next try may be made.
    next_attempt: Option<Instant>,
    /// The time of the last try, if it was a long poll and no request has failed since. The queue may be holding it.
    poll_attempt: Option<Instant>,
    last_answer: Option<Instant>,
}

impl Default for Outage {
    fn default() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), ended: watch::Sender::new(0) }))
    }
}

impl Outage {
    /// Records an answer of the queue. Ends the outage, if there is one.
    pub fn answered(&self) {
        let mut state = self.0.state.lock();
        state.last_answer = Some(Instant::now());
        if state.next_attempt.take().is_some() {
            drop(state);
            self.0.ended.send_modify(|count| *count += 1);
        }
    }

    /// Records a request without an answer, or with the answer that the queue is not available. The queue is away from then on,
    /// unless it has just answered another request.
    pub fn failed(&self) {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        let answers_others = state.last_answer.is_some_and(|at| now.duration_since(at) < MIN_PAUSE);
        if let (Some(poll), true) = (state.poll_attempt.take(), state.next_attempt.is_some()) {
            state.next_attempt = Some(next_attempt(poll));
        }
        if state.next_attempt.is_none() && !answers_others {
            state.next_attempt = Some(next_attempt(now));
        }
    }

    /// Whether the queue is away.
    pub fn is_on(&self) -> bool {
        self.0.state.lock().next_attempt.is_some()
    }

    /// Waits before a request that has just failed is repeated:
    ///
    /// - while the queue is away, until it is the caller's turn to make the worker's next try;
    /// - when an outage ends, no longer than until a second after the call;
    /// - without an outage, for `pause`.
    ///
    /// Returns whether there was an outage, after which a series of growing pauses starts again.
    pub async fn pause(&self, pause: Duration) -> bool {
        self.wait(pause, false).await
    }

    /// As [`Outage::pause`], before a long poll. The queue may hold a poll instead of answering it, which does not show whether
    /// it is back, so another part makes its try soon after one that does not fail.
    pub async fn pause_before_poll(&self, pause: Duration) -> bool {
        self.wait(pause, true).await
    }

    async fn wait(&self, pause: Duration, is_poll: bool) -> bool {
        let called = Instant::now();
        let mut ended = self.0.ended.subscribe();
        loop {
            let next_attempt = self.0.state.lock().next_attempt;
            let wake = match next_attempt {
                Some(next_attempt) => next_attempt.max(called + MIN_PAUSE),
                None => called + pause,
            };
            tokio::select! {
                // The sender lives as long as this object, so the result is always `Ok`.
                _ = ended.changed() => {
                    sleep_until(called + MIN_PAUSE).await;
                    return true;
                }
                () = sleep_until(wake) => {
                    if next_attempt.is_none() {
                        return false;
                    }
                    if self.take_turn(is_poll) {
                        return true;
                    }
                }
            }
        }
    }

    /// Claims the next try. Returns whether the caller may make it.
    fn take_turn(&self, is_poll: bool) -> bool {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        match state.next_attempt {
            Some(at) if at <= now => {
                state.next_attempt = Some(if is_poll { now + HELD_POLL } else { next_attempt(now) });
                state.poll_attempt = is_poll.then_some(now);
                true
            }
            _ => false,
        }
    }
}

/// The time of the try after one at `now`. It is random, so that many workers do not try at the same moments.
fn next_attempt(now: Instant) -> Instant {
    // The hasher of the standard library is seeded at random; a random number generator is not needed for this.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now);
    let share = (random % 1000) as f64 / 1000.0;
    now + PROBE_INTERVAL + PROBE_JITTER.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn without_an_outage_the_pause_is_kept() {
        let outage = Outage::default();
        let begin = Instant::now();
        outage.pause(LONG).await;
        assert_eq!(begin.elapsed(), LONG);
    }

    #[tokio::test(start_paused = true)]
    async fn all_parts_together_try_about_once_a_second_and_the_first_answer_wakes_them_all() {
        let outage = Outage::default();
        outage.failed();
        let attempts = Arc::new(Mutex::new(0));
        let parts: Vec<_> = (0..20)
            .map(|_| {
                let (outage, attempts) = (outage.clone(), Arc::clone(&attempts));
                tokio::spawn(async move {
                    loop {
                        outage.pause(LONG).await;
                        if !outage.is_on() {
                            return Instant::now();
                        }
                        *attempts.lock() += 1;
                        outage.failed();
                    }
                })
            })
            .collect();
        sleep(LONG).await;
        let tried = *attempts.lock();
        assert!((18..=30).contains(&tried), "{tried} attempts in 30 s");
        let back = Instant::now();
        outage.answered();
        for part in parts {
            let woken = part.await.unwrap();
            assert!(woken - back <= MIN_PAUSE, "{:?}", woken - back);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_the_queue_holds_does_not_delay_the_attempts_of_other_parts() {
        let outage = Outage::default();
        outage.failed();
        outage.pause_before_poll(LONG).await;
        let held = Instant::now();
        outage.pause(LONG).await;
        assert!(held.elapsed() <= MIN_PAUSE, "{:?}", held.elapsed());

        outage.pause_before_poll(LONG).await;
        let failed = Instant::now();
        outage.failed();
        outage.pause(LONG).await;
        assert!(failed.elapsed() >= PROBE_INTERVAL, "{:?}", failed.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_has_just_failed_waits_a_second_before_it_tries_again() {
        let outage = Outage::default();
        outage.failed();
        let begin = Instant::now();
        let paused = tokio::spawn({
            let outage = outage.clone();
            async move { outage.pause(LONG).await }
        });
        sleep(Duration::from_millis(10)).await;
        outage.answered();
        paused.await.unwrap();
        assert_eq!(begin.elapsed(), MIN_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_failure_between_answers_is_not_an_outage() {
        let outage = Outage::default();
        outage.answered();
        outage.failed();
        assert!(!outage.is_on());
        let other = outage.clone();
        let paused = timeout(LONG - Duration::from_secs(1), async move { other.pause(LONG).await });
        outage.answered();
        assert!(paused.await.is_err(), "answers to other requests do not shorten the pause");
    }
}
