//! Reads request bodies up to a limit. The declared media type does not matter.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::limits;

/// Why a body was not read.
#[derive(Debug)]
pub(crate) enum BodyError {
    TooLarge,
    Unreadable,
}

/// The whole body, at most `limit` bytes.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, BodyError> {
    timeout(limits::BODY_TIME, read_all(body, limit)).await.unwrap_or(Err(BodyError::Unreadable))
}

async fn read_all(body: Body, limit: usize) -> Result<Bytes, BodyError> {
    let mut frames = body.into_data_stream();
    let mut whole = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| BodyError::Unreadable)?;
        seen += frame.len();
        if seen <= limit {
            whole.extend_from_slice(&frame);
        } else if seen > limit + limits::DISCARDED_BODY {
            break;
        } else {
            whole = BytesMut::new();
        }
    }
    if seen > limit { Err(BodyError::TooLarge) } else { Ok(whole.freeze()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_read() {
        assert_eq!(read(Body::from("12345"), 5).await.unwrap(), "12345");
        assert!(matches!(read(Body::from("123456"), 5).await, Err(BodyError::TooLarge)));
    }
}
