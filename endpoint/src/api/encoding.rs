//! Packed bodies: gzip in requests is undone, and large answers are packed for clients that ask for it.

use std::io;

use async_compression::tokio::bufread::GzipDecoder;
use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{Extensions, HeaderMap, StatusCode, Version};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use futures_util::TryStreamExt as _;
use tokio_util::io::{ReaderStream, StreamReader};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};

use super::error::ApiError;
use super::extensions;
use super::limits;

/// Adds both to the routes. The limits of bodies hold for what they are when unpacked, because they are counted while they are read.
pub(super) fn with_encodings<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    let worth_it = SizeAbove::new(limits::COMPRESSED_FROM)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES)
        .and(is_for_a_client);
    // Packing costs the server's time, and most clients are near: the fastest level is enough.
    let packed = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_it);
    routes.layer(packed).layer(from_fn(unpack))
}

/// Answers to workers are sent as they are: jobs count as delivered when the last byte of their own text has left.
fn is_for_a_client(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    !extensions::is_for_a_worker(headers)
}

/// Passes a request on as it is when unpacked, and refuses one that would be read as it is packed.
async fn unpack(request: Request, next: Next) -> Result<Response, ApiError> {
    let mut encodings = request.headers().get_all(CONTENT_ENCODING).iter();
    let is_packed = match (encodings.next(), encodings.next()) {
        (None, _) => return Ok(next.run(request).await),
        (Some(only), None) => match &*only.to_str().unwrap_or("?").trim().to_ascii_lowercase() {
            "gzip" | "x-gzip" => true,
            "identity" | "" => false,
            _ => return Err(ApiError::UnknownEncoding),
        },
        _ => return Err(ApiError::UnknownEncoding),
    };
    let (mut parts, mut body) = request.into_parts();
    parts.headers.remove(CONTENT_ENCODING);
    if is_packed && !body.is_end_stream() {
        parts.headers.remove(CONTENT_LENGTH);
        body = unpacked(body);
    }
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// What is in a gzip body of any number of members, as the format has it. Other bytes behind them, or a member that is cut off, make the
/// whole body unreadable.
fn unpacked(body: Body) -> Body {
    let packed = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let mut members = GzipDecoder::new(packed);
    members.multiple_members(true);
    Body::from_stream(ReaderStream::with_capacity(members, limits::UNPACKED_AT_ONCE))
}
