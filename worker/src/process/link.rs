//! The socket to a handler process: a reader that turns frames into events, a writer that turns messages into frames.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use runpod_handler_protocol::{Decoder, FrameError, Received, ToHandler, ToSupervisor, encode_header};
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::events::Events;
use super::limits::FRAMES_AT_ONCE;
use super::running_jobs::RunningJobs;
use super::secret_inputs::SecretInputs;
use crate::logs::redact;
use runpod_worker_core::ProcessEvent;

/// A message ready to be written: the encoded prefix and header, and the payload as it came.
#[derive(Debug)]
pub(super) struct Frame {
    header: Bytes,
    payload: Bytes,
    /// The payload is a job.
    is_job: bool,
}

impl Frame {
    pub(super) fn new(message: &ToHandler, payload: Bytes) -> Result<Self, FrameError> {
        let is_job = matches!(message, ToHandler::Run { .. });
        Ok(Self { header: encode_header(message, payload.len())?.into(), payload, is_job })
    }
}

/// Reads until end-of-file, or until the stream is out of step. After `stop` it takes what is already there and returns.
///
/// The handler's chunk window bounds what can pile up here, so events may wait for the dispatcher.
pub(super) async fn read(
    mut socket: OwnedReadHalf,
    events: Events,
    jobs: RunningJobs,
    secrets: SecretInputs,
    stop: CancellationToken,
) {
    let mut decoder = Decoder::<ToSupervisor>::new();
    loop {
        let read = tokio::select! {
            biased;
            read = socket.read_buf(decoder.buffer_mut()) => read,
            () = stop.cancelled() => break,
        };
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(process = events.process(), %error, "The socket to a handler process failed.");
                return;
            }
        }
        loop {
            let event = match decoder.next() {
                Ok(None) => break,
                Ok(Some(Received::Message(message, payload))) => {
                    jobs.received(&message);
                    let payload = admit(&message, payload, &secrets);
                    ProcessEvent::Message { message, payload }
                }
                Ok(Some(Received::Oversize { message, payload_len })) => {
                    jobs.received(&message);
                    ProcessEvent::Oversize { message, payload_len }
                }
                Ok(Some(Received::Unreadable { reason })) => ProcessEvent::BadFrame { reason },
                Err(error) => {
                    events.send(ProcessEvent::BadFrame { reason: error.to_string() }).await;
                    // Nothing that follows can be understood. The handler sees end-of-file and ends itself.
                    let _ = shutdown(socket.as_ref(), Shutdown::Both);
                    return;
                }
            };
            events.send(event).await;
        }
    }
    // A process that died while writing leaves half a frame. Its exit is reported next and says more than this.
    if let Err(error) = decoder.finish() {
        tracing::debug!(process = events.process(), %error, "A handler process stopped in the middle of a message.");
    }
}

/// Takes note of what the handler says about its inputs, and keeps secrets out of what goes into logs and error reports.
fn admit(message: &ToSupervisor, payload: Bytes, secrets: &SecretInputs) -> Bytes {
    match message {
        ToSupervisor::Hello { .. } => {
            secrets.learn(&payload);
            payload
        }
        ToSupervisor::Failed { .. }
        | ToSupervisor::LoadFailed { .. }
        | ToSupervisor::Probed { .. }
        | ToSupervisor::Checked => redact::clean_json(&payload),
        _ => payload,
    }
}

/// Writes frames in order until the queue closes or the handler no longer reads. Those that wait are written together, so that a
/// handler with many slots wakes up once for the jobs of a poll.
///
/// The secret inputs of a job are masked before the handler has them, so that it cannot print one too early.
pub(super) async fn write(
    mut socket: OwnedWriteHalf,
    mut frames: mpsc::Receiver<Frame>,
    secrets: SecretInputs,
    process: usize,
) {
    let mut waiting = Vec::new();
    while frames.recv_many(&mut waiting, FRAMES_AT_ONCE).await > 0 {
        waiting.iter().filter(|frame| frame.is_job).for_each(|frame| secrets.mask(&frame.payload));
        let mut parts = Parts::new(waiting.drain(..));
        if let Err(error) = socket.write_all_buf(&mut parts).await {
            tracing::debug!(process, %error, "A handler process no longer reads its messages.");
            return;
        }
    }
}

/// Frames that are written together, without copying them.
#[derive(Debug)]
struct Parts(VecDeque<Bytes>);

impl Parts {
    fn new(frames: impl Iterator<Item = Frame>) -> Self {
        let parts = frames.flat_map(|frame| [frame.header, frame.payload]);
        Self(parts.filter(|part| !part.is_empty()).collect())
    }
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.0).map(|(slice, part)| *slice = IoSlice::new(part));
        filled.count()
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(first) = self.0.front_mut().filter(|_| bytes > 0) {
            let of_first = bytes.min(first.len());
            first.advance(of_first);
            bytes -= of_first;
            if first.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_may_end_anywhere_in_the_frames() {
        let frame = |header, payload| Frame { header: Bytes::from_static(header), payload, is_job: false };
        let frames = || [frame(b"ab", Bytes::from_static(b"cde")), frame(b"f", Bytes::new()), frame(b"gh", "i".into())];
        for cut in 0..=9 {
            let mut parts = Parts::new(frames().into_iter());
            parts.advance(cut);
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = parts.chunks_vectored(&mut slices);
            let left: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            assert_eq!(left, b"abcdefghi"[cut..], "after {cut} bytes");
            assert_eq!((parts.remaining(), parts.has_remaining()), (9 - cut, cut < 9));
        }
    }
}
