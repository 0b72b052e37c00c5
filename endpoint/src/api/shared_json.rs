//! JSON responses that send payloads from where they lie, without a copy for each reader.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;

use crate::store::Payload;

/// A JSON document in parts: text of its own, and payloads that it shares with the store.
#[derive(Debug, Default)]
pub(crate) struct SharedJson {
    parts: Vec<Bytes>,
    /// Text since the last payload.
    text: String,
}

impl SharedJson {
    /// Appends text.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Appends a payload: a short one as a copy, which is cheaper, a long one as it lies.
    pub(crate) fn push_payload(&mut self, payload: &Payload) {
        const COPIED: usize = 16 << 10;
        if payload.get().len() <= COPIED {
            return self.push(payload.get());
        }
        let text = std::mem::take(&mut self.text);
        self.parts.push(Bytes::from(text));
        self.parts.push(Bytes::from_owner(Owner(Arc::clone(payload))));
    }
}

struct Owner(Payload);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.get().as_bytes()
    }
}

impl IntoResponse for SharedJson {
    fn into_response(self) -> Response {
        let Self { mut parts, text } = self;
        parts.push(Bytes::from(text));
        let length: usize = parts.iter().map(Bytes::len).sum();
        let headers = [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_LENGTH, length.to_string())];
        let body = match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => Body::from(only),
            Err(parts) => Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>))),
        };
        (headers, body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::value::RawValue;

    use super::*;

    #[tokio::test]
    async fn long_payloads_are_shared_and_the_document_is_whole() {
        let payload = |letter: &str, len: usize| -> Payload {
            Arc::from(RawValue::from_string(format!("\"{}\"", letter.repeat(len))).unwrap())
        };
        let (long, short) = (payload("x", 1 << 20), payload("y", 10));
        let mut document = SharedJson::default();
        document.push("[");
        document.push_payload(&long);
        document.push(",");
        document.push_payload(&short);
        document.push("]");
        assert_eq!(Arc::strong_count(&long), 2, "the document holds the payload itself");
        let response = document.into_response();
        let length: usize = response.headers()[CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(bytes, format!("[{},{}]", long.get(), short.get()));
        assert_eq!(bytes.len(), length);
        drop(bytes);
        assert_eq!(Arc::strong_count(&long), 1);
    }
}
