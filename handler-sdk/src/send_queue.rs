//! The queue of frames that wait to be sent to the worker.
//!
//! Adding a frame never blocks: whoever adds one writes what the socket takes at once, and leaves the rest to the writer thread. So a
//! frame reaches the worker without waking another thread, and what several threads add at the same time is written together.
//!
//! The queue is bounded because each producer is: the chunk window limits a job's chunks, a new progress, loading or concurrency
//! message replaces the waiting one, a slot has at most one result, and only the newest pong is kept.

mod frames;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use runpod_handler_protocol::{ErrorReport, ToSupervisor, encode_header};

use self::frames::{Frame, Outgoing};
use crate::text::log;

/// Frames that are written with one system call.
const MAX_FRAMES: usize = 64;
/// Bytes after which no frame is added to those that are written together.
const MAX_BYTES: usize = 64 * 1024;
/// Writes that a thread does before it leaves the rest to the writer thread: it has work of its own.
const MAX_WRITES: usize = 4;

/// Frames that wait to be sent, in order.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    state: Mutex<State>,
    /// There is something to do for the writer thread.
    filled: Condvar,
    /// What threads that add a frame write to themselves; without it the writer thread writes everything.
    socket: OnceLock<UnixStream>,
    /// Progress is not replaced by newer progress: a test reads all of it.
    all_progress: bool,
}

#[derive(Debug, Default)]
struct State {
    /// A thread writes, and goes on until nothing waits.
    writing: bool,
    /// Frames of the last write that the socket had no room for; a part of the first one may be written.
    begun: Vec<Frame>,
    /// Sent ahead of all frames, because it shows that the process is alive.
    pong: Option<u64>,
    frames: VecDeque<Frame>,
    /// How many frames were ever queued, without pongs.
    queued: u64,
    /// How many of the queued frames were written.
    written: u64,
    /// The threads that wait until this many were, in this order.
    waiting: VecDeque<(u64, Thread)>,
    closed: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.pong.is_none() && self.frames.is_empty()
    }

    /// Takes what is written next; the caller writes until [`State::end_write`].
    fn begin_write(&mut self) -> Outgoing {
        self.writing = true;
        let mut outgoing = Outgoing::default();
        self.begun.drain(..).for_each(|frame| outgoing.add(frame));
        if let Some(header) = self.pong.take().and_then(|seq| encode_header(&ToSupervisor::Pong { seq }, 0).ok()) {
            outgoing.add(Frame { header: header.into(), payload: Bytes::new(), replaceable: None, counted: false });
        }
        while outgoing.len() < MAX_FRAMES
            && outgoing.bytes() < MAX_BYTES
            && let Some(frame) = self.frames.pop_front()
        {
            outgoing.add(frame);
        }
        outgoing
    }

    fn end_write(&mut self, outgoing: Outgoing) {
        self.writing = false;
        self.written += outgoing.written;
        self.begun = outgoing.into_rest();
        self.wake();
    }

    /// Wakes the threads that need not wait any longer, and no others: there may be very many.
    fn wake(&mut self) {
        while self.waiting.front().is_some_and(|(last, _)| self.closed || *last <= self.written)
            && let Some((_, thread)) = self.waiting.pop_front()
        {
            thread.unpark();
        }
    }
}

/// Kinds of frames of which only the newest matters.
#[derive(Debug, PartialEq, Eq)]
enum Replaceable {
    Progress(String, u32),
    Loading(u32),
    Concurrency,
}

impl SendQueue {
    /// A queue for tests, in which no progress is replaced by newer progress.
    pub(crate) fn with_all_progress() -> Self {
        Self { all_progress: true, ..Self::default() }
    }

    /// From now on threads that add a frame write to this socket themselves. [`SendQueue::write_to`] must write to the same one.
    pub(crate) fn attach(&self, socket: UnixStream) {
        // A queue has one connection.
        let _ = self.socket.set(socket);
    }

    /// Queues a message. A progress, loading or concurrency message replaces the older one that is still waiting.
    pub(crate) fn push(&self, message: &ToSupervisor, payload: Bytes) {
        let replaceable = match message {
            ToSupervisor::Progress { job, attempt } if !self.all_progress => {
                Some(Replaceable::Progress(job.clone(), *attempt))
            }
            ToSupervisor::Loading { slot, .. } if !self.all_progress => Some(Replaceable::Loading(*slot)),
            ToSupervisor::Concurrency { .. } => Some(Replaceable::Concurrency),
            _ => None,
        };
        let header = match encode_header(message, payload.len()) {
            Ok(header) => header,
            Err(error) => return log(format_args!("a message to the worker is dropped: {error}")),
        };
        let frame = Frame { header: header.into(), payload, replaceable, counted: true };
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let older = frame
            .replaceable
            .as_ref()
            .and_then(|key| state.frames.iter_mut().find(|waiting| waiting.replaceable.as_ref() == Some(key)));
        match older {
            Some(older) => *older = frame,
            None => {
                state.frames.push_back(frame);
                state.queued += 1;
            }
        }
        self.write_or_wake(state);
    }

    /// Queues a message that carries an error report.
    pub(crate) fn push_report(&self, message: &ToSupervisor, report: &ErrorReport) {
        match serde_json::to_vec(report) {
            Ok(payload) => self.push(message, payload.into()),
            Err(error) => log(format_args!("an error report cannot be written as JSON: {error}")),
        }
    }

    /// Answers a ping, ahead of everything else.
    pub(crate) fn pong(&self, seq: u64) {
        let mut state = self.state.lock();
        state.pong = Some(seq);
        self.write_or_wake(state);
    }

    /// Waits until everything that is queued now was written; `false` when `limit` passed or the connection was closed before that.
    /// What was written reaches the worker even if this process crashes at once.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let mut state = self.state.lock();
        let last = state.queued;
        let deadline = Instant::now().checked_add(limit);
        if !state.closed && state.written < last {
            state.waiting.push_back((last, thread::current()));
        }
        while !state.closed && state.written < last {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let own = thread::current().id();
                state.waiting.retain(|(_, thread)| thread.id() != own);
                return false;
            }
            MutexGuard::unlocked(&mut state, || thread::park_timeout(left));
        }
        state.written >= last
    }

    /// Ends the writer thread once everything was written.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.wake();
        drop(state);
        self.filled.notify_one();
    }

    /// Writes until the queue is closed. Runs on the writer thread.
    pub(crate) fn write_to(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut state = self.state.lock();
        loop {
            self.filled.wait_while(&mut state, |state| state.writing || !state.closed && state.is_empty());
            if state.is_empty() {
                return Ok(());
            }
            let mut outgoing = state.begin_write();
            let result = MutexGuard::unlocked(&mut state, || outgoing.write_all(stream));
            state.closed |= result.is_err();
            state.end_write(outgoing);
            result?;
        }
    }

    /// Writes what the socket takes, and wakes the writer thread if something is left.
    fn write_or_wake(&self, mut state: MutexGuard<'_, State>) {
        if state.writing {
            return;
        }
        if let Some(socket) = self.socket.get() {
            for _ in 0..MAX_WRITES {
                let mut outgoing = state.begin_write();
                MutexGuard::unlocked(&mut state, || outgoing.write_now(socket));
                state.end_write(outgoing);
                if state.is_empty() || !state.begun.is_empty() {
                    break;
                }
            }
            // The writer thread does not end as long as somebody writes.
            if state.is_empty() && !state.closed {
                return;
            }
        }
        drop(state);
        self.filled.notify_one();
    }
}

#[cfg(test)]
mod tests;
