//! Frames: `u32 header_len | u32 payload_len | JSON header | payload`, both lengths little-endian.
//!
//! Both lengths are checked before anything is allocated. A payload over the limit is skipped, not read: the stream stays
//! in step and only the job named in the header suffers. A header over the limit cannot be trusted at all and ends the
//! connection.

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

/// A frame that cannot be written, or a stream that is out of step and must be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer announced, or the caller built, a header over [`MAX_HEADER_LEN`].
    #[error("frame header of {len} bytes is over the limit of {MAX_HEADER_LEN} bytes")]
    HeaderTooLarge {
        /// Announced length in bytes.
        len: usize,
    },
    /// The caller tried to send a payload over [`MAX_PAYLOAD_LEN`].
    #[error("payload of {len} bytes is over the limit of {MAX_PAYLOAD_LEN} bytes")]
    PayloadTooLarge {
        /// Length in bytes.
        len: usize,
    },
    /// The stream ended in the middle of a frame.
    #[error("the stream ended inside a frame, {missing} bytes short")]
    Truncated {
        /// Bytes that should have followed (at least).
        missing: usize,
    },
    /// The message cannot be written as JSON.
    #[error("message cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

/// What [`Decoder::next`] found.
#[derive(Debug)]
pub enum Received<M> {
    /// A message and its payload (empty when the sender had none).
    Message(M, Bytes),
    /// A message whose payload was over the limit and is skipped. The stream stays in step.
    Oversize {
        /// The message that carried the payload.
        message: M,
        /// Announced payload length in bytes.
        payload_len: usize,
    },
    /// A header that is not a known message. The stream stays in step.
    Unreadable {
        /// What the JSON parser said.
        reason: String,
    },
}

/// Encodes the prefix and header of a frame; the payload follows it on the wire as it is, without a copy.
///
/// # Errors
/// When the header or the payload is over its limit, or `message` is not representable as JSON.
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
    // Both limits are far below u32::MAX, so the conversions cannot cut anything off.
    out[..4].copy_from_slice(&(header_len as u32).to_le_bytes());
    out[4..8].copy_from_slice(&(payload_len as u32).to_le_bytes());
    Ok(out)
}

/// Turns a byte stream into messages. Feed it with [`read_from`](Self::read_from) or through
/// [`buffer_mut`](Self::buffer_mut), then call [`next`](Self::next) until it answers `None`.
#[derive(Debug)]
pub struct Decoder<M> {
    buffer: BytesMut,
    /// Bytes of an oversize payload that are still to be thrown away.
    skip: usize,
    _message: PhantomData<fn() -> M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), skip: 0, _message: PhantomData }
    }
}

impl<M: DeserializeOwned> Decoder<M> {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer that received bytes are appended to, for readers that fill it themselves.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_CHUNK);
        &mut self.buffer
    }

    /// Reads once from a blocking reader; `Ok(0)` is end-of-file.
    ///
    /// # Errors
    /// Whatever the reader reports.
    pub fn read_from(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        let start = self.buffer.len();
        self.buffer.resize(start + READ_CHUNK, 0);
        let result = reader.read(&mut self.buffer[start..]);
        self.buffer.truncate(start + *result.as_ref().unwrap_or(&0));
        result
    }

    /// The next complete message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::HeaderTooLarge`]: the stream is out of step and must be closed.
    // Not an Iterator: `None` means "feed me", not "finished".
    #[expect(clippy::should_implement_trait, reason = "None asks for more bytes; an iterator would be over")]
    pub fn next(&mut self) -> Result<Option<Received<M>>, FrameError> {
        self.discard();
        if self.skip > 0 || self.buffer.len() < PREFIX_LEN {
            return Ok(None);
        }
        let (header_len, payload_len) = self.lengths();
        if header_len > MAX_HEADER_LEN {
            return Err(FrameError::HeaderTooLarge { len: header_len });
        }
        let oversize = payload_len > MAX_PAYLOAD_LEN;
        let wanted = PREFIX_LEN + header_len + if oversize { 0 } else { payload_len };
        if self.buffer.len() < wanted {
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

    /// Checks, at end-of-file, that the stream did not stop inside a frame.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when it did.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.skip > 0 {
            return Err(FrameError::Truncated { missing: self.skip });
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let wanted = if self.buffer.len() < PREFIX_LEN {
            PREFIX_LEN
        } else {
            let (header_len, payload_len) = self.lengths();
            PREFIX_LEN + header_len + payload_len
        };
        Err(FrameError::Truncated { missing: wanted.saturating_sub(self.buffer.len()) })
    }

    fn discard(&mut self) {
        let now = self.skip.min(self.buffer.len());
        self.buffer.advance(now);
        self.skip -= now;
    }

    /// Header and payload length of the frame at the front; the caller has checked that the prefix is there.
    fn lengths(&self) -> (usize, usize) {
        let word = |at: usize| {
            let bytes = [self.buffer[at], self.buffer[at + 1], self.buffer[at + 2], self.buffer[at + 3]];
            u32::from_le_bytes(bytes) as usize
        };
        (word(0), word(4))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn frame(header: &Value, payload: &[u8]) -> Vec<u8> {
        let mut bytes = encode_header(header, payload.len()).unwrap();
        bytes.extend_from_slice(payload);
        bytes
    }

    fn drain(decoder: &mut Decoder<Value>) -> Vec<(Value, Bytes)> {
        std::iter::from_fn(|| decoder.next().unwrap())
            .map(|received| match received {
                Received::Message(message, payload) => (message, payload),
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    #[test]
    fn oversize_payload_is_skipped_and_the_stream_stays_in_step() {
        let mut decoder = Decoder::<Value>::new();
        let header = serde_json::to_vec(&json!({"job": "a"})).unwrap();
        let too_long = MAX_PAYLOAD_LEN + 3;
        let mut bytes = (header.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&(too_long as u32).to_le_bytes());
        bytes.extend_from_slice(&header);
        decoder.buffer_mut().extend_from_slice(&bytes);
        match decoder.next().unwrap() {
            Some(Received::Oversize { message, payload_len }) => {
                assert_eq!((message, payload_len), (json!({"job": "a"}), too_long));
            }
            other => panic!("unexpected {other:?}"),
        }
        assert!(decoder.finish().is_err(), "the skipped payload is still outstanding");

        let block = vec![0; 1 << 20];
        let mut left = too_long;
        while left > 0 {
            let now = left.min(block.len());
            decoder.buffer_mut().extend_from_slice(&block[..now]);
            assert!(decoder.next().unwrap().is_none());
            assert!(decoder.buffer.is_empty(), "skipped bytes are not kept");
            left -= now;
        }
        decoder.buffer_mut().extend_from_slice(&frame(&json!({"job": "b"}), b"x"));
        assert_eq!(drain(&mut decoder), [(json!({"job": "b"}), Bytes::from_static(b"x"))]);
        decoder.finish().unwrap();
    }

    #[test]
    fn oversize_header_is_refused_before_it_arrives() {
        let mut decoder = Decoder::<Value>::new();
        decoder.buffer_mut().extend_from_slice(&[0xff; 8]);
        assert!(matches!(decoder.next(), Err(FrameError::HeaderTooLarge { len }) if len == u32::MAX as usize));
    }

    #[test]
    fn header_that_is_not_a_message_is_reported_and_skipped() {
        let mut decoder = Decoder::<Value>::new();
        let mut bytes = 3u32.to_le_bytes().to_vec();
        bytes.extend_from_slice(&2u32.to_le_bytes());
        bytes.extend_from_slice(b"{]}ab");
        bytes.extend_from_slice(&frame(&json!(1), b""));
        decoder.buffer_mut().extend_from_slice(&bytes);
        assert!(matches!(decoder.next().unwrap(), Some(Received::Unreadable { .. })));
        assert_eq!(drain(&mut decoder).len(), 1);
    }

    #[test]
    fn limits_are_checked_when_writing() {
        assert!(matches!(encode_header(&json!("x".repeat(MAX_HEADER_LEN)), 0), Err(FrameError::HeaderTooLarge { .. })));
        assert!(matches!(encode_header(&json!(1), MAX_PAYLOAD_LEN + 1), Err(FrameError::PayloadTooLarge { .. })));
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(
            frames in prop::collection::vec((".{0,40}", prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            cuts in prop::collection::vec(1usize..200, 1..20),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(text, payload)| frame(&json!(text), payload)).collect();
            let mut decoder = Decoder::<Value>::new();
            let mut seen = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let mut part = &rest[..(*cut).min(rest.len())];
                rest = &rest[part.len()..];
                decoder.read_from(&mut part).unwrap();
                seen.extend(drain(&mut decoder));
            }
            decoder.finish().unwrap();
            prop_assert_eq!(seen.len(), frames.len());
            for ((message, got), (text, payload)) in seen.iter().zip(&frames) {
                prop_assert_eq!(message, &json!(text));
                prop_assert_eq!(&got[..], &payload[..]);
            }
        }

        #[test]
        fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::<Value>::new();
            decoder.buffer_mut().extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
            let _ = decoder.finish();
        }
    }
}
