//! Frames: `u32 header_len | u32 payload_len | JSON header | payload`, both lengths little-endian.
//!
//! Both lengths are checked before any memory is allocated. A payload over the limit is skipped: only the job in the header
//! fails, and the next frame can be read. After a header over the limit the position of the next frame is not known, so the
//! connection must be closed.

use std::io::{self, Read};
use std::marker::PhantomData;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// Largest JSON header, in bytes.
pub const MAX_HEADER_LEN: usize = 64 * 1024;
/// Largest payload, in bytes.
pub const MAX_PAYLOAD_LEN: usize = 64 * 1024 * 1024;

const PREFIX_LEN: usize = 8;
const READ_CHUNK: usize = 64 * 1024;
/// Least room for a blocking read: several small frames.
const MIN_READ: usize = 4 * 1024;
/// Most bytes read at once: more than a socket holds.
const MAX_READ: usize = 1024 * 1024;

/// Why a frame cannot be written, or why a stream cannot be read any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A received header, or one to be written, is longer than [`MAX_HEADER_LEN`].
    #[error("frame header of {len} bytes is over the limit of {MAX_HEADER_LEN} bytes")]
    HeaderTooLarge {
        /// Length in bytes.
        len: usize,
    },
    /// A payload to be written is longer than [`MAX_PAYLOAD_LEN`].
    #[error("payload of {len} bytes is over the limit of {MAX_PAYLOAD_LEN} bytes")]
    PayloadTooLarge {
        /// Length in bytes.
        len: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, {missing} bytes short")]
    Truncated {
        /// Number of missing bytes, at least.
        missing: usize,
    },
    /// The message cannot be written as JSON.
    #[error("the message cannot be written as JSON: {0}")]
    Encode(#[from] serde_json::Error),
}

/// What [`Decoder::next`] read.
#[derive(Debug)]
pub enum Received<M> {
    /// A message and its payload (empty when the sender had none).
    Message(M, Bytes),
    /// A message whose payload is over the limit and is skipped. The next frame can be read.
    Oversize {
        /// The message in the header.
        message: M,
        /// Length of the payload in bytes.
        payload_len: usize,
    },
    /// A header that is not a known message. The next frame can be read.
    Unreadable {
        /// The error of the JSON parser.
        reason: String,
    },
}

/// Encodes prefix and header of a frame. The caller writes the payload right after them, so it is not copied.
///
/// # Errors
/// When the header or the payload is over its limit, or `message` cannot be written as JSON.
pub fn encode_header<M: Serialize>(message: &M, payload_len: usize) -> Result<Vec<u8>, FrameError> {
    let mut out = vec![0; PREFIX_LEN];
    serde_json::to_writer(&mut out, message)?;
    let header_len = out.len() - PREFIX_LEN;
    if header_len > MAX_HEADER_LEN {
        return Err(FrameError::HeaderTooLarge { len: header_len });
    }
    if payload_len > MAX_PAYLOAD_LEN {
        return Err(FrameError::PayloadTooLarge { len: payload_len });
    }
    // Both limits are far below u32::MAX, so the conversions do not truncate.
    out[..4].copy_from_slice(&(header_len as u32).to_le_bytes());
    out[4..8].copy_from_slice(&(payload_len as u32).to_le_bytes());
    Ok(out)
}

/// Splits a byte stream into messages. Add bytes with [`read_from`](Self::read_from) or [`buffer_mut`](Self::buffer_mut), then
/// call [`next`](Self::next) until it returns `None`.
#[derive(Debug)]
pub struct Decoder<M> {
    /// What was received, and after it `room` zeros.
    buffer: BytesMut,
    /// How many bytes at the end of the buffer wait for a blocking reader. They are zeroed once, not for each read.
    room: usize,
    /// Bytes of an oversize payload that are still to be skipped.
    skip: usize,
    _message: PhantomData<fn() -> M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), room: 0, skip: 0, _message: PhantomData }
    }
}

impl<M: DeserializeOwned> Decoder<M> {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer to which received bytes are appended, for callers that read from the stream themselves.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        self.buffer.truncate(self.received());
        self.room = 0;
        self.buffer.reserve(self.wanted());
        &mut self.buffer
    }

    /// Reads once from a blocking reader; `Ok(0)` is end-of-file.
    ///
    /// # Errors
    /// The error of the reader.
    pub fn read_from(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        let (start, wanted) = (self.received(), self.wanted());
        if self.room < self.missing().clamp(MIN_READ, MAX_READ).min(wanted) {
            self.buffer.reserve(wanted.saturating_sub(self.room));
            self.room = wanted.min(MAX_READ);
            self.buffer.resize(start + self.room, 0);
        }
        let read = reader.read(&mut self.buffer[start..])?;
        self.room -= read.min(self.room);
        Ok(read)
    }

    /// The next complete message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::HeaderTooLarge`]: the stream cannot be read any further and must be closed.
    #[expect(
        clippy::should_implement_trait,
        reason = "`None` means that more bytes are needed; for an iterator it would mean the end"
    )]
    pub fn next(&mut self) -> Result<Option<Received<M>>, FrameError> {
        self.discard();
        if self.skip > 0 || self.received() < PREFIX_LEN {
            return Ok(None);
        }
        let (header_len, payload_len) = self.lengths();
        if header_len > MAX_HEADER_LEN {
            return Err(FrameError::HeaderTooLarge { len: header_len });
        }
        let oversize = payload_len > MAX_PAYLOAD_LEN;
        let wanted = PREFIX_LEN + header_len + if oversize { 0 } else { payload_len };
        if self.received() < wanted {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_LEN);
        let header = self.buffer.split_to(header_len);
        let payload = if oversize {
            self.skip = payload_len;
            self.discard();
            Bytes::new()
        } else {
            self.buffer.split_to(payload_len).freeze()
        };
        Ok(Some(match serde_json::from_slice(&header) {
            Ok(message) if oversize => Received::Oversize { message, payload_len },
            Ok(message) => Received::Message(message, payload),
            Err(error) => Received::Unreadable { reason: error.to_string() },
        }))
    }

    /// To be called at end-of-file: verifies that the stream did not end inside a frame.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when it did.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.skip > 0 {
            return Err(FrameError::Truncated { missing: self.skip });
        }
        if self.received() == 0 {
            return Ok(());
        }
        let wanted = if self.received() < PREFIX_LEN {
            PREFIX_LEN
        } else {
            let (header_len, payload_len) = self.lengths();
            PREFIX_LEN + header_len + payload_len
        };
        Err(FrameError::Truncated { missing: wanted.saturating_sub(self.received()) })
    }

    /// How many bytes of the buffer were received.
    fn received(&self) -> usize {
        self.buffer.len() - self.room
    }

    /// How many bytes of the first frame are known to be still to come. Nothing is known of a frame over a limit.
    fn missing(&self) -> usize {
        if self.skip > 0 || self.received() < PREFIX_LEN {
            return 0;
        }
        let (header_len, payload_len) = self.lengths();
        if header_len > MAX_HEADER_LEN || payload_len > MAX_PAYLOAD_LEN {
            return 0;
        }
        (PREFIX_LEN + header_len + payload_len).saturating_sub(self.received())
    }

    /// How much room the buffer needs beyond what was received: for the rest of a large frame at once, so that what is already here is
    /// not moved again and again, and for nothing behind it, because that would move it once more at its end. Otherwise for several
    /// small frames.
    fn wanted(&self) -> usize {
        let missing = self.missing();
        if missing > 0 && self.received() + missing > READ_CHUNK { missing } else { READ_CHUNK }
    }

    fn discard(&mut self) {
        let now = self.skip.min(self.received());
        self.buffer.advance(now);
        self.skip -= now;
    }

    /// Header and payload length of the first frame in the buffer, which must contain its prefix.
    fn lengths(&self) -> (usize, usize) {
        let word = |at: usize| {
            let bytes = [self.buffer[at], self.buffer[at + 1], self.buffer[at + 2], self.buffer[at + 3]];
            u32::from_le_bytes(bytes) as usize
        };
        (word(0), word(4))
    }
}

#[cfg(test)]
mod tests;
