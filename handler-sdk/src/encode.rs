//! Writes values as JSON payloads within the size limit of a frame.

use std::io::{self, Write};

use bytes::Bytes;
use runpod_handler_protocol::MAX_PAYLOAD_LEN;
use serde::Serialize;

/// A piece of JSON, such as a text, that is worth room of its own.
const LARGE_PIECE: usize = 64 * 1024;

/// Why a value cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The JSON is longer than [`MAX_PAYLOAD_LEN`].
    #[error(
        "the {what} is {len} bytes of JSON, over the limit of {MAX_PAYLOAD_LEN} bytes: upload it to storage and return its \
         URL, or emit it in chunks"
    )]
    TooLarge {
        /// `output`, `chunk` or `progress`.
        what: &'static str,
        /// Length of the JSON in bytes.
        len: usize,
    },
    /// The value cannot be expressed in JSON.
    #[error("the {what} cannot be written as JSON ({source}): map keys must be strings, numbers or booleans")]
    Json {
        /// `output`, `chunk` or `progress`.
        what: &'static str,
        /// The error of the serializer.
        source: serde_json::Error,
    },
}

/// Writes `value` as JSON. `NaN` and infinite numbers become `null`, because JSON cannot express them.
pub(crate) fn encode(what: &'static str, value: &impl Serialize) -> Result<Bytes, EncodeError> {
    let mut out = Limited::default();
    serde_json::to_writer(&mut out, value).map_err(|source| EncodeError::Json { what, source })?;
    if out.len > MAX_PAYLOAD_LEN {
        return Err(EncodeError::TooLarge { what, len: out.len });
    }
    Ok(out.kept.into())
}

/// A buffer that keeps counting beyond the limit, so that the error can name the size, but stores nothing more.
#[derive(Default)]
struct Limited {
    kept: Vec<u8>,
    len: usize,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.len += bytes.len();
        if self.len <= MAX_PAYLOAD_LEN {
            if bytes.len() > LARGE_PIECE {
                // With room for what follows, so that it is not moved for a closing bracket.
                self.kept.reserve(bytes.len() + LARGE_PIECE);
            }
            self.kept.extend_from_slice(bytes);
        } else {
            self.kept = Vec::new();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_limit_is_exact_and_the_error_names_the_size() {
        // Two bytes of the JSON are the quotes.
        let fits = "x".repeat(MAX_PAYLOAD_LEN - 2);
        assert_eq!(encode("output", &fits).unwrap().len(), MAX_PAYLOAD_LEN);
        let error = encode("output", &(fits + "x")).unwrap_err().to_string();
        assert!(error.starts_with("the output is 67108865 bytes of JSON, over the limit of 67108864 bytes"), "{error}");
    }

    #[test]
    fn an_error_names_what_cannot_be_written_as_json() {
        let error = encode("chunk", &BTreeMap::from([(vec![1], 2)])).unwrap_err().to_string();
        assert!(error.starts_with("the chunk cannot be written as JSON (key must be a string)"), "{error}");
    }

    #[test]
    fn numbers_that_json_lacks_become_null() {
        assert_eq!(encode("output", &[1.5, f64::NAN]).unwrap(), "[1.5,null]");
    }
}
