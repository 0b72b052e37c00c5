//! The same state for jobs that are futures: what blocks a thread elsewhere is awaited here.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::RunningJob;
use crate::stopped::Stopped;

/// Wakes the futures that wait for a change of the job.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    changed: Notify,
    /// The handler waits for the stop itself.
    ends_itself: AtomicBool,
}

impl Awaited {
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }
}

impl RunningJob {
    /// The handler wants to see the stop, and to end by itself.
    pub(crate) fn ends_itself(&self) -> bool {
        self.awaited.ends_itself.load(Ordering::Relaxed)
    }

    pub(crate) fn let_end_itself(&self) {
        self.awaited.ends_itself.store(true, Ordering::Relaxed);
    }

    /// Waits until the job must end.
    pub(crate) async fn until_stopped(&self) -> Stopped {
        let mut deadline = pin!(tokio::time::sleep_until(self.deadline.into()));
        loop {
            // Before the state is looked at, so that no change is missed.
            let mut changed = pin!(self.awaited.changed.notified());
            changed.as_mut().enable();
            if let Some(stopped) = self.stopped() {
                return stopped;
            }
            tokio::select! {
                () = changed => {}
                () = &mut deadline => {}
            }
        }
    }

    /// As [`send_chunk`](Self::send_chunk), without blocking the thread.
    pub(crate) async fn send_chunk_when_possible(&self, len: usize, send: impl FnOnce(u64)) -> Result<(), Stopped> {
        loop {
            let mut changed = pin!(self.awaited.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if let Some(stopped) = self.stopped_in(&state) {
                    return Err(stopped);
                }
                if state.fits(self.window, len) {
                    send(state.next_seq(len));
                    return Ok(());
                }
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(self.deadline.into()) => {}
            }
        }
    }
}
