//! Reads request bodies up to a limit. The declared media type does not matter.

use std::ops::Deref;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use runpod_http_server::{Budget, Share};
use tokio::time::timeout;

use super::error::ApiError;
use super::limits;

/// A body, which counts against the memory of all requests until it is dropped.
#[derive(Debug)]
pub(crate) struct Received {
    bytes: Bytes,
    _share: Share,
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a body was not read.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is larger than the route accepts.
    TooLarge,
    /// It did not arrive in time, or the connection broke.
    Unreadable,
    /// The bodies of all requests together are larger than the server accepts.
    NoMemory,
}

impl BodyError {
    /// The error of a route that accepts `limit` bytes.
    pub(crate) fn of_client(self, limit: usize) -> ApiError {
        match self {
            Self::TooLarge => ApiError::BodyTooLarge { limit },
            Self::Unreadable => ApiError::BodyUnreadable,
            Self::NoMemory => ApiError::TooManyBodies,
        }
    }
}

/// The whole body, at most `limit` bytes.
pub(crate) async fn read(body: Body, limit: usize, memory: &Budget) -> Result<Received, BodyError> {
    timeout(limits::BODY_TIME, read_all(body, limit, memory)).await.unwrap_or(Err(BodyError::Unreadable))
}

async fn read_all(body: Body, limit: usize, memory: &Budget) -> Result<Received, BodyError> {
    let mut frames = body.into_data_stream();
    let mut whole = BytesMut::new();
    let mut share = memory.share();
    let mut refused = None;
    let mut seen = 0_usize;
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| BodyError::Unreadable)?;
        seen += frame.len();
        if seen > limit {
            refused = Some(BodyError::TooLarge);
        } else if refused.is_none() && !share.try_grow(frame.len()) {
            refused = Some(BodyError::NoMemory);
        }
        if refused.is_none() {
            whole.extend_from_slice(&frame);
        } else if seen > limit + limits::DISCARDED_BODY {
            break;
        } else {
            whole = BytesMut::new();
            share.clear();
        }
    }
    refused.map_or(Ok(Received { bytes: whole.freeze(), _share: share }), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_read() {
        let memory = Budget::new(100);
        assert_eq!(&*read(Body::from("12345"), 5, &memory).await.unwrap(), b"12345");
        assert!(matches!(read(Body::from("123456"), 5, &memory).await, Err(BodyError::TooLarge)));
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn all_bodies_together_have_a_limit() {
        let memory = Budget::new(10);
        let held = read(Body::from("123456"), 10, &memory).await.unwrap();
        assert!(matches!(read(Body::from("12345"), 10, &memory).await, Err(BodyError::NoMemory)));
        drop(held);
        assert!(read(Body::from("12345"), 10, &memory).await.is_ok());
    }
}
