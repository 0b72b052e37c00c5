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
fn an_oversize_payload_is_skipped_and_the_next_frame_is_read() {
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
fn an_oversize_header_is_an_error_before_it_arrives() {
    let mut decoder = Decoder::<Value>::new();
    decoder.buffer_mut().extend_from_slice(&[0xff; 8]);
    assert!(matches!(decoder.next(), Err(FrameError::HeaderTooLarge { len }) if len == u32::MAX as usize));
}

#[test]
fn a_header_that_is_not_a_message_is_reported_and_skipped() {
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
fn the_limits_also_apply_to_writing() {
    assert!(matches!(encode_header(&json!("x".repeat(MAX_HEADER_LEN)), 0), Err(FrameError::HeaderTooLarge { .. })));
    assert!(matches!(encode_header(&json!(1), MAX_PAYLOAD_LEN + 1), Err(FrameError::PayloadTooLarge { .. })));
}

proptest! {
    #[test]
    fn frames_survive_any_split_of_the_bytes(
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
    fn any_bytes_are_decoded_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut decoder = Decoder::<Value>::new();
        decoder.buffer_mut().extend_from_slice(&bytes);
        while let Ok(Some(_)) = decoder.next() {}
        let _ = decoder.finish();
    }
}

#[test]
fn the_rest_of_a_large_frame_is_read_at_once_and_nothing_is_reserved_for_one_over_the_limit() {
    /// Gives whatever it is asked for.
    struct Endless<'a>(&'a [u8], usize);
    impl Read for Endless<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            self.0.read(into)
        }
    }
    let payload = vec![b'1'; 20_000_000];
    let bytes = frame(&json!({"job": "a"}), &payload);
    let mut reader = Endless(&bytes, 0);
    let mut decoder = Decoder::<Value>::new();
    let received = loop {
        if let Some((_, payload)) = drain(&mut decoder).pop() {
            break payload;
        }
        decoder.read_from(&mut reader).unwrap();
    };
    assert_eq!(received, payload);
    assert!(reader.1 <= 25, "{} reads", reader.1);

    let mut decoder = Decoder::<Value>::new();
    let mut prefix = 10_u32.to_le_bytes().to_vec();
    prefix.extend_from_slice(&u32::MAX.to_le_bytes());
    decoder.buffer_mut().extend_from_slice(&prefix);
    assert!(decoder.buffer_mut().capacity() < MAX_READ, "no memory for what will be skipped");
}

/// Reads a stream in pieces, as a socket gives them, with both ways to read; returns the payloads of its frames.
fn in_pieces(stream: &[u8], piece: usize, blocking: bool) -> Vec<Bytes> {
    let mut decoder = Decoder::<Value>::new();
    let (mut left, mut payloads) = (stream, Vec::new());
    while !left.is_empty() {
        let read = if blocking {
            decoder.read_from(&mut &left[..piece.min(left.len())]).unwrap()
        } else {
            let buffer = decoder.buffer_mut();
            let read = piece.min(left.len()).min(buffer.capacity() - buffer.len());
            buffer.extend_from_slice(&left[..read]);
            read
        };
        assert!(read > 0, "there is always room for something");
        left = &left[read..];
        payloads.extend(drain(&mut decoder).into_iter().map(|(_, payload)| payload));
    }
    decoder.finish().unwrap();
    payloads
}

#[test]
fn a_large_frame_is_not_moved_for_what_follows_it() {
    let large = vec![7; 5 << 20];
    let stream = [frame(&json!({}), &large), frame(&json!({}), b"small")].concat();
    for (piece, blocking) in [(50_000, false), (50_000, true), (200_000, false), (200_000, true)] {
        let mut payloads = in_pieces(&stream, piece, blocking);
        assert!(payloads == [&large[..], b"small"], "{piece} bytes, blocking: {blocking}");
        // Moved, it would have room for twice as much. The small one may be in the same memory.
        payloads.truncate(1);
        let held: usize = payloads.into_iter().map(|large| BytesMut::from(large).capacity()).sum();
        assert!(held < large.len() + 2 * READ_CHUNK, "{held} bytes are held for {}, blocking: {blocking}", large.len());
    }
}
