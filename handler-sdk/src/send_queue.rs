//! The queue of frames on their way to the supervisor, and the thread that writes them.
//!
//! Nothing here blocks a producer. The queue is bounded because every producer is: chunks by the job's window, progress
//! and start-up notes by "latest wins", results by the one job that a slot holds, pongs by being replaced.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorReport, ToSupervisor, encode_header};

use crate::text::log;

/// Frames that are waiting, in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Overtakes everything: it says that the process is alive.
    pong: Option<u64>,
    frames: VecDeque<Frame>,
    /// How many frames were ever queued, and how many of them have left. Pongs are not counted.
    queued: u64,
    left: u64,
    closed: bool,
}

#[derive(Debug)]
struct Frame {
    header: Vec<u8>,
    payload: Bytes,
    replaced_by: Option<Replaceable>,
}

/// Frames of which only the newest counts.
#[derive(Debug, PartialEq, Eq)]
enum Replaceable {
    Progress(String, u32),
    Loading(u32),
}

impl Outgoing {
    /// Queues a message. Progress and start-up notes take the place of an older one that has not left yet.
    pub(crate) fn push(&self, message: &ToSupervisor, payload: Bytes) {
        let replaced_by = match message {
            ToSupervisor::Progress { job, attempt } => Some(Replaceable::Progress(job.clone(), *attempt)),
            ToSupervisor::Loading { slot, .. } => Some(Replaceable::Loading(*slot)),
            _ => None,
        };
        let header = match encode_header(message, payload.len()) {
            Ok(header) => header,
            Err(error) => return log(format_args!("a message to the worker is dropped: {error}")),
        };
        let frame = Frame { header, payload, replaced_by };
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let older = frame
            .replaced_by
            .as_ref()
            .and_then(|key| state.frames.iter_mut().find(|waiting| waiting.replaced_by.as_ref() == Some(key)));
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
            Err(error) => log(format_args!("an error report cannot be written: {error}")),
        }
    }

    /// Answers a ping, ahead of everything else.
    pub(crate) fn pong(&self, seq: u64) {
        self.lock().pong = Some(seq);
        self.changed.notify_all();
    }

    /// Waits until everything that was queued up to now has left; `false` when `limit` passed first or the connection is
    /// gone. What has left reaches the supervisor even if this process dies at once.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let state = self.lock();
        let last = state.queued;
        let waiting = |state: &mut State| !state.closed && state.left < last;
        let (state, result) =
            self.changed.wait_timeout_while(state, limit, waiting).unwrap_or_else(PoisonError::into_inner);
        !result.timed_out() && !state.closed
    }

    /// Ends the writer thread once everything has left.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Writes until the queue is closed. Runs on the writer thread.
    pub(crate) fn write_to(&self, stream: &mut impl Write) -> io::Result<()> {
        while let Some((frame, counts)) = self.take() {
            let written = stream.write_all(&frame.header).and_then(|()| stream.write_all(&frame.payload));
            let mut state = self.lock();
            state.left += u64::from(counts);
            state.closed |= written.is_err();
            drop(state);
            self.changed.notify_all();
            written?;
        }
        Ok(())
    }

    /// The next frame and whether it is one of those that are counted; `None` once the queue is closed and empty.
    fn take(&self) -> Option<(Frame, bool)> {
        let idle = |state: &mut State| !state.closed && state.pong.is_none() && state.frames.is_empty();
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let pong = state.pong.take().and_then(|seq| encode_header(&ToSupervisor::Pong { seq }, 0).ok());
        match pong {
            Some(header) => Some((Frame { header, payload: Bytes::new(), replaced_by: None }, false)),
            None => Some((state.frames.pop_front()?, true)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use runpod_handler_protocol::{Decoder, Received};

    use super::*;

    /// What a supervisor reads once everything has left.
    fn written(outgoing: &Outgoing) -> Vec<(ToSupervisor, String)> {
        let mut decoder = Decoder::new();
        let mut bytes = Vec::new();
        outgoing.close();
        outgoing.write_to(&mut bytes).unwrap();
        decoder.buffer_mut().extend_from_slice(&bytes);
        std::iter::from_fn(|| decoder.next().unwrap())
            .map(|received| match received {
                Received::Message(message, payload) => (message, String::from_utf8(payload.to_vec()).unwrap()),
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    fn progress(job: &str) -> ToSupervisor {
        ToSupervisor::Progress { job: job.to_owned(), attempt: 1 }
    }

    #[test]
    fn only_the_newest_progress_of_a_job_leaves_and_before_its_result() {
        let outgoing = Outgoing::default();
        let failed = ToSupervisor::Failed { job: "a".to_owned(), attempt: 1, refresh: false, reloading: false };
        outgoing.push(&progress("a"), "1".into());
        outgoing.push(&progress("b"), "1".into());
        outgoing.push(&progress("a"), "2".into());
        outgoing.push(&progress("a"), "3".into());
        outgoing.push(&failed, Bytes::new());
        let expected = [(progress("a"), "3"), (progress("b"), "1"), (failed, "")];
        assert_eq!(written(&outgoing), expected.map(|(message, payload)| (message, payload.to_owned())));
    }

    #[test]
    fn a_pong_overtakes_and_the_newest_counts() {
        let outgoing = Outgoing::default();
        outgoing.push(&progress("a"), "1".into());
        outgoing.pong(1);
        outgoing.pong(2);
        let messages: Vec<_> = written(&outgoing).into_iter().map(|(message, _)| message).collect();
        assert_eq!(messages, [ToSupervisor::Pong { seq: 2 }, progress("a")]);
    }

    #[test]
    fn a_flush_waits_for_what_came_before_it_and_for_nothing_else() {
        struct Gate(std::sync::mpsc::Receiver<()>);
        impl Write for Gate {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.recv().map_err(io::Error::other)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let outgoing = Outgoing::default();
        let (open, gate) = std::sync::mpsc::sync_channel(0);
        outgoing.push(&progress("a"), Bytes::new());
        outgoing.push(&progress("b"), Bytes::new());
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| outgoing.write_to(&mut Gate(gate)));
            open.send(()).unwrap();
            assert!(!outgoing.flush(Duration::from_millis(20)), "b has not left");
            let flush = scope.spawn(|| outgoing.flush(Duration::from_secs(60)));
            open.send(()).unwrap();
            assert!(flush.join().unwrap());
            // A pong is no part of the order.
            outgoing.pong(1);
            outgoing.push(&progress("c"), Bytes::new());
            open.send(()).unwrap();
            assert!(!outgoing.flush(Duration::from_millis(20)), "only the pong has left");
            drop(open);
            writer.join().unwrap().unwrap_err();
        });
        assert!(!outgoing.flush(Duration::from_secs(60)), "the connection is gone");
    }

    #[test]
    fn a_broken_connection_ends_the_writer_and_frees_who_waits() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let outgoing = Outgoing::default();
        outgoing.push(&progress("a"), "1".into());
        outgoing.push(&progress("b"), "1".into());
        assert_eq!(outgoing.write_to(&mut Broken).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(!outgoing.flush(Duration::from_secs(60)));
    }
}
