//! Base64 in inputs and outputs.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::file_error::FileError;

const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// Decodes base64 as clients send it: with or without padding and line breaks, in the standard or the URL-safe alphabet.
///
/// # Errors
/// [`FileError::Form`] when the text is not base64.
pub fn from_base64(text: &str) -> Result<Vec<u8>, FileError> {
    let url_safe = text.contains(['-', '_']);
    let engine = GeneralPurpose::new(if url_safe { &URL_SAFE } else { &STANDARD }, ANY_PADDING);
    let decoded = if text.contains(|c: char| c.is_ascii_whitespace()) {
        engine.decode(text.split_ascii_whitespace().collect::<String>())
    } else {
        engine.decode(text)
    };
    decoded.map_err(|_| FileError::Form(": this is not valid base64"))
}

/// Base64 in the standard alphabet, with padding, for an output.
pub fn to_base64(data: impl AsRef<[u8]>) -> String {
    GeneralPurpose::new(&STANDARD, ANY_PADDING).encode(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_clients_send_it() {
        let data = [0xfb, 0xff, 0xfe, 0x00];
        assert_eq!(to_base64(data), "+//+AA==");
        for text in ["+//+AA==", "+//+AA", "-__-AA==", "-__-AA", "+//+\r\nAA==\n"] {
            assert_eq!(from_base64(text).unwrap(), data, "{text:?}");
        }
        for text in ["+//+A", "not base64!", "+_", "日本"] {
            let error = from_base64(text).unwrap_err().to_string();
            assert!(error.ends_with("this is not valid base64") && !error.contains(text), "{error}");
        }
    }
}
