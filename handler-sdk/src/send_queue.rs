//! The queue of frames that wait to be sent to the worker, and the loop of the thread that writes them.
//!
//! Adding a frame never blocks. The queue is bounded because each producer is: the chunk window limits a job's chunks, a new
//! progress, loading or concurrency message replaces the waiting one, a slot has at most one result, and only the newest pong is kept.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use runpod_handler_protocol::{ErrorReport, ToSupervisor, encode_header};

use crate::text::log;

/// Frames that wait to be sent, in order.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    state: Mutex<State>,
    changed: Condvar,
    /// Progress is not replaced by newer progress: a test reads all of it.
    all_progress: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Sent ahead of all frames, because it shows that the process is alive.
    pong: Option<u64>,
    frames: VecDeque<Frame>,
    /// How many frames were ever queued, without pongs.
    queued: u64,
    /// How many of the queued frames were written.
    written: u64,
    closed: bool,
}

#[derive(Debug)]
struct Frame {
    header: Vec<u8>,
    payload: Bytes,
    replaceable: Option<Replaceable>,
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
        let frame = Frame { header, payload, replaceable };
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
        drop(state);
        self.changed.notify_all();
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
        self.state.lock().pong = Some(seq);
        self.changed.notify_all();
    }

    /// Waits until everything that is queued now was written; `false` when `limit` passed first or the connection is closed.
    /// What was written reaches the worker even if this process crashes at once.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let mut state = self.state.lock();
        let last = state.queued;
        let waiting = |state: &mut State| !state.closed && state.written < last;
        self.changed.wait_while_for(&mut state, waiting, limit);
        !state.closed && state.written >= last
    }

    /// Ends the writer thread once everything was written.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Writes until the queue is closed. Runs on the writer thread.
    pub(crate) fn write_to(&self, stream: &mut impl Write) -> io::Result<()> {
        while let Some((frame, counted)) = self.take() {
            let written = stream.write_all(&frame.header).and_then(|()| stream.write_all(&frame.payload));
            let mut state = self.state.lock();
            state.written += u64::from(counted);
            state.closed |= written.is_err();
            drop(state);
            self.changed.notify_all();
            written?;
        }
        Ok(())
    }

    /// The next frame, and whether `State::queued` counts it; `None` once the queue is closed and empty.
    fn take(&self) -> Option<(Frame, bool)> {
        let idle = |state: &mut State| !state.closed && state.pong.is_none() && state.frames.is_empty();
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, idle);
        let pong = state.pong.take().and_then(|seq| encode_header(&ToSupervisor::Pong { seq }, 0).ok());
        match pong {
            Some(header) => Some((Frame { header, payload: Bytes::new(), replaceable: None }, false)),
            None => Some((state.frames.pop_front()?, true)),
        }
    }
}

#[cfg(test)]
mod tests;
