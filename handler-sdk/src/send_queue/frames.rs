//! Frames that are written together, with one system call where the socket has room.

use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;

use bytes::{Buf as _, Bytes};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::Replaceable;

/// A message ready to be written.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) header: Bytes,
    pub(super) payload: Bytes,
    pub(super) replaceable: Option<Replaceable>,
    /// A flush waits for it.
    pub(super) counted: bool,
}

impl Frame {
    fn len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    fn advance(&mut self, bytes: usize) {
        let of_header = bytes.min(self.header.len());
        self.header.advance(of_header);
        self.payload.advance(bytes - of_header);
    }
}

/// The frames of one write, in order. Whoever fills it limits their number.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// What is left; of the first one, a part may be gone.
    frames: Vec<Frame>,
    bytes: usize,
    /// How many frames that a flush waits for are written.
    pub(super) written: u64,
}

impl Outgoing {
    pub(super) fn add(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.frames.push(frame);
    }

    /// How many bytes are left.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many frames are left.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// What is left.
    pub(super) fn into_rest(self) -> Vec<Frame> {
        self.frames
    }

    /// Writes everything, however long that takes.
    pub(super) fn write_all(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while !self.frames.is_empty() {
            match stream.write_vectored(&self.slices()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what the socket takes without waiting. Why it takes no more is found out by whoever writes the rest.
    pub(super) fn write_now(&mut self, socket: &UnixStream) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while !self.frames.is_empty() {
            match sendmsg(socket, &self.slices(), &mut SendAncillaryBuffer::default(), flags) {
                Ok(bytes @ 1..) => self.advance(bytes),
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        let parts = self.frames.iter().flat_map(|frame| [&frame.header, &frame.payload]);
        parts.filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect()
    }

    fn advance(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        let whole = self.frames.iter().take_while(|frame| {
            let fits = frame.len() <= bytes;
            if fits {
                bytes -= frame.len();
            }
            fits
        });
        let whole = whole.count();
        self.written += self.frames.drain(..whole).map(|frame| u64::from(frame.counted)).sum::<u64>();
        if let Some(first) = self.frames.first_mut() {
            first.advance(bytes);
        }
    }
}
