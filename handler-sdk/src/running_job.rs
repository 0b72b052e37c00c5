//! The part of a running job that the control thread and the slot thread share.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runpod_handler_protocol::CancelReason;

use crate::job::Stopped;

/// Bytes of one job's chunks that may be on their way; one chunk always may.
const MAX_WINDOW_BYTES: usize = 16 * 1024 * 1024;
/// Longer than any job lives, and far from overflowing the clock.
const MAX_DEADLINE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Cancel flag, deadline and chunk window of one attempt of one job.
#[derive(Debug)]
pub(crate) struct RunningJob {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) traceparent: Option<String>,
    pub(crate) deadline: Instant,
    window: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cancelled: Option<CancelReason>,
    last_seq: u64,
    /// Sequence number and length of every chunk that is not acknowledged.
    in_flight: VecDeque<(u64, usize)>,
}

impl RunningJob {
    /// `window` is how many chunks may be on their way (at least one), `time_left` the time until the deadline.
    pub(crate) fn new(id: String, attempt: u32, traceparent: Option<String>, time_left: Duration, window: u32) -> Self {
        Self {
            id,
            attempt,
            traceparent,
            deadline: Instant::now() + time_left.min(MAX_DEADLINE),
            window: window.max(1) as usize,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn cancel(&self, reason: CancelReason) {
        self.lock().cancelled.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// Why the job must end, if it must.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.stopped_in(&self.lock())
    }

    /// Chunks up to and including `seq` have left the supervisor.
    pub(crate) fn acknowledge(&self, seq: u64) {
        self.lock().in_flight.retain(|(sent, _)| *sent > seq);
        self.changed.notify_all();
    }

    /// Waits for room in the window, then calls `send` with the next sequence number. The lock is held during `send`, so that
    /// chunks from several threads leave in the order of their numbers.
    pub(crate) fn send_chunk(&self, len: usize, send: impl FnOnce(u64)) -> Result<(), Stopped> {
        let mut state = self.lock();
        loop {
            if let Some(stopped) = self.stopped_in(&state) {
                return Err(stopped);
            }
            let bytes: usize = state.in_flight.iter().map(|(_, len)| len).sum();
            let fits = state.in_flight.len() < self.window && bytes + len <= MAX_WINDOW_BYTES;
            if fits || state.in_flight.is_empty() {
                break;
            }
            // The deadline bounds the wait.
            let left = self.deadline.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.last_seq += 1;
        let seq = state.last_seq;
        state.in_flight.push_back((seq, len));
        send(seq);
        Ok(())
    }

    fn stopped_in(&self, state: &State) -> Option<Stopped> {
        let late = || (Instant::now() >= self.deadline).then_some(CancelReason::Deadline);
        state.cancelled.or_else(late).map(Stopped::new)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The jobs that are assigned to slots, for the control thread to find.
#[derive(Debug, Default)]
pub(crate) struct RunningJobs(Mutex<HashMap<(String, u32), Arc<RunningJob>>>);

impl RunningJobs {
    pub(crate) fn insert(&self, job: &Arc<RunningJob>) {
        self.lock().insert((job.id.clone(), job.attempt), Arc::clone(job));
    }

    pub(crate) fn remove(&self, job: &RunningJob) {
        self.lock().remove(&(job.id.clone(), job.attempt));
    }

    /// `None` when that attempt is over, or never was here.
    pub(crate) fn get(&self, id: &str, attempt: u32) -> Option<Arc<RunningJob>> {
        self.lock().get(&(id.to_owned(), attempt)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, u32), Arc<RunningJob>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(time_left: Duration, window: u32) -> RunningJob {
        RunningJob::new("a".to_owned(), 1, None, time_left, window)
    }

    #[test]
    fn a_full_window_blocks_until_the_deadline_and_no_longer() {
        let job = job(Duration::from_millis(50), 1);
        job.send_chunk(1, |seq| assert_eq!(seq, 1)).unwrap();
        let stopped = job.send_chunk(1, |_| panic!("sent beyond the window")).unwrap_err();
        assert_eq!(stopped.reason(), CancelReason::Deadline);
    }

    #[test]
    fn the_window_counts_bytes_too_but_one_chunk_always_fits() {
        let job = job(Duration::from_millis(50), 10);
        job.send_chunk(MAX_WINDOW_BYTES * 2, |_| {}).unwrap();
        job.send_chunk(1, |_| panic!("sent beyond the window")).unwrap_err();
    }

    #[test]
    fn an_acknowledgement_makes_room() {
        let job = job(Duration::from_secs(60), 2);
        job.send_chunk(1, |_| {}).unwrap();
        job.send_chunk(1, |_| {}).unwrap();
        std::thread::scope(|scope| {
            let third = scope.spawn(|| job.send_chunk(1, |seq| assert_eq!(seq, 3)));
            job.acknowledge(1);
            third.join().unwrap().unwrap();
        });
        job.acknowledge(3);
        assert!(job.lock().in_flight.is_empty());
    }

    #[test]
    fn the_first_reason_counts_and_a_deadline_beyond_the_clock_is_no_panic() {
        let job = job(Duration::MAX, 1);
        assert_eq!(job.stopped(), None);
        job.cancel(CancelReason::Drain);
        job.cancel(CancelReason::Stopped);
        assert_eq!(job.stopped().map(|stopped| stopped.reason()), Some(CancelReason::Drain));
    }
}
