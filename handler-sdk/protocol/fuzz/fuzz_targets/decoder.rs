//! Decodes any bytes: the decoder must not panic, and must find the same messages whether the bytes arrive at once or in
//! pieces.
#![no_main]

use std::fmt::Debug;
use std::io::Read;

use libfuzzer_sys::fuzz_target;
use runpod_handler_protocol::{Decoder, Received, ToHandler, ToSupervisor};

/// A reader that returns at most `step` bytes a call.
struct Pieces<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let step = self.step.min(buffer.len());
        self.bytes.read(&mut buffer[..step])
    }
}

macro_rules! decode {
    ($message:ty, $bytes:expr, $step:expr) => {{
        let mut pieces = Pieces { bytes: $bytes, step: $step };
        let mut decoder = Decoder::<$message>::new();
        let mut found = Vec::new();
        'stream: loop {
            loop {
                match decoder.next() {
                    Ok(Some(received)) => found.push(describe(&received)),
                    Ok(None) => break,
                    Err(error) => {
                        found.push(format!("{error:?}"));
                        break 'stream;
                    }
                }
            }
            match decoder.read_from(&mut pieces) {
                Ok(0) => {
                    found.push(format!("{:?}", decoder.finish()));
                    break;
                }
                Ok(_) => {}
                Err(error) => panic!("a slice cannot fail: {error}"),
            }
        }
        found
    }};
}

fn describe<M: Debug>(received: &Received<M>) -> String {
    format!("{received:?}")
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let step = usize::from(step).max(1);
    assert_eq!(decode!(ToHandler, bytes, usize::MAX), decode!(ToHandler, bytes, step));
    assert_eq!(decode!(ToSupervisor, bytes, usize::MAX), decode!(ToSupervisor, bytes, step));
});
