//! Data URLs, by RFC 2397.

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::base64::{from_base64, to_base64};
use super::name::content_type;
use crate::file_error::FileError;

/// The content type that a data URL has if it names none.
const DEFAULT_TYPE: &str = "text/plain";

/// Reads what follows `data:`.
pub(crate) fn parse(rest: &str) -> Result<(String, Bytes), FileError> {
    let (head, data) = rest.split_once(',').ok_or(FileError::Form(": this data: URL has no comma"))?;
    let base64 = head.len().checked_sub(";base64".len()).and_then(|at| head.split_at_checked(at));
    let (media_type, data) = match base64.filter(|(_, end)| end.eq_ignore_ascii_case(";base64")) {
        // The payload may be escaped as in any URL.
        Some((media_type, _)) if data.contains('%') => {
            (media_type, from_base64(&percent_decode_str(data).decode_utf8_lossy())?)
        }
        Some((media_type, _)) => (media_type, from_base64(data)?),
        None => (head, percent_decode_str(data).collect()),
    };
    Ok((content_type(media_type).unwrap_or_else(|| DEFAULT_TYPE.to_owned()), data.into()))
}

/// A `data:` URL with `data` in base64, for an output that a browser can show. `content_type` is for example `image/png`.
pub fn to_data_url(content_type: &str, data: impl AsRef<[u8]>) -> String {
    format!("data:{content_type};base64,{}", to_base64(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_are_read() {
        for (url, media_type, data) in [
            ("image/png;base64,iVBORw==", "image/png", &b"\x89PNG"[..]),
            ("image/png;BASE64,iVBORw%3D%3D", "image/png", b"\x89PNG"),
            ("text/plain;charset=utf-8,a%20b", "text/plain", b"a b"),
            (",a", "text/plain", b"a"),
            (";base64,YQ==", "text/plain", b"a"),
            ("../../x;base64,YQ==", "text/plain", b"a"),
        ] {
            assert_eq!(parse(url).unwrap(), (media_type.to_owned(), Bytes::from_static(data)), "{url}");
        }
        assert!(parse("image/png;base64").is_err());
        assert!(parse("image/png;base64,?").is_err());
        let url = to_data_url("image/png", b"\x89PNG");
        assert_eq!(parse(url.strip_prefix("data:").unwrap()).unwrap().1, b"\x89PNG"[..]);
    }
}
