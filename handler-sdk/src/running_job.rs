//! The state of a running job that the control thread and the slot thread share.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use runpod_handler_protocol::StopReason;

use crate::stopped::Stopped;

/// Most bytes of one job's chunks that may be unacknowledged. A single chunk may always be sent, whatever its size.
const MAX_WINDOW_BYTES: usize = 16 * 1024 * 1024;
/// Longest time until a deadline: longer than any job runs, and short enough not to overflow the clock.
const MAX_DEADLINE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Stop flag, deadline and chunk window of one attempt at one job.
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
    stop: Option<StopReason>,
    last_seq: u64,
    /// Sequence number and length of every unacknowledged chunk.
    unacknowledged: VecDeque<(u64, usize)>,
}

impl RunningJob {
    /// `window` is how many chunks may be unacknowledged (at least one), `time_left` the time until the deadline.
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

    /// Asks the job to stop. The first reason is kept.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.state.lock().stop.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// Why the job must end, if it must.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.stopped_in(&self.state.lock())
    }

    /// Whether a chunk was sent.
    pub(crate) fn has_streamed(&self) -> bool {
        self.state.lock().last_seq > 0
    }

    /// The worker has passed on the chunks up to and including `seq`.
    pub(crate) fn acknowledge(&self, seq: u64) {
        self.state.lock().unacknowledged.retain(|(sent, _)| *sent > seq);
        self.changed.notify_all();
    }

    /// Waits for room in the window, then calls `send` with the next sequence number. The lock is held during `send`, so
    /// chunks from several threads are sent in the order of their numbers.
    pub(crate) fn send_chunk(&self, len: usize, send: impl FnOnce(u64)) -> Result<(), Stopped> {
        let mut state = self.state.lock();
        loop {
            if let Some(stopped) = self.stopped_in(&state) {
                return Err(stopped);
            }
            if self.fits(&state, len) {
                break;
            }
            // The deadline limits the wait.
            self.changed.wait_until(&mut state, self.deadline);
        }
        state.last_seq += 1;
        let seq = state.last_seq;
        state.unacknowledged.push_back((seq, len));
        send(seq);
        Ok(())
    }

    /// Whether a small chunk can be sent without waiting.
    pub(crate) fn has_room(&self) -> bool {
        self.fits(&self.state.lock(), 1)
    }

    fn fits(&self, state: &State, len: usize) -> bool {
        let bytes: usize = state.unacknowledged.iter().map(|(_, len)| len).sum();
        let fits = state.unacknowledged.len() < self.window && bytes + len <= MAX_WINDOW_BYTES;
        fits || state.unacknowledged.is_empty()
    }

    fn stopped_in(&self, state: &State) -> Option<Stopped> {
        let late = || (Instant::now() >= self.deadline).then_some(StopReason::Deadline);
        state.stop.or_else(late).map(Stopped::new)
    }
}

/// The jobs that slots hold, by id and attempt: the control thread finds here the job that a message is about.
#[derive(Debug, Default)]
pub(crate) struct RunningJobs(Mutex<HashMap<(String, u32), Arc<RunningJob>>>);

impl RunningJobs {
    pub(crate) fn insert(&self, job: &Arc<RunningJob>) {
        self.0.lock().insert((job.id.clone(), job.attempt), Arc::clone(job));
    }

    pub(crate) fn remove(&self, job: &RunningJob) {
        self.0.lock().remove(&(job.id.clone(), job.attempt));
    }

    /// `None` when that attempt is over, or was never sent to this process.
    pub(crate) fn get(&self, id: &str, attempt: u32) -> Option<Arc<RunningJob>> {
        self.0.lock().get(&(id.to_owned(), attempt)).cloned()
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
        assert_eq!(stopped.reason(), StopReason::Deadline);
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
        assert!(job.state.lock().unacknowledged.is_empty());
    }

    #[test]
    fn the_first_reason_counts_and_a_deadline_beyond_the_clock_is_no_panic() {
        let job = job(Duration::MAX, 1);
        assert_eq!(job.stopped(), None);
        job.stop(StopReason::Drain);
        job.stop(StopReason::Cancelled);
        assert_eq!(job.stopped().map(|stopped| stopped.reason()), Some(StopReason::Drain));
    }
}
