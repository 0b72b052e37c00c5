//! Compressed bodies: gzip in requests is undone, and large answers are compressed for clients that ask for it.

use std::io;

use async_compression::tokio::bufread::GzipDecoder;
use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{Extensions, HeaderMap, StatusCode, Version};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use tokio_util::io::{ReaderStream, StreamReader};
use tower::{Layer as _, ServiceExt as _};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

use super::extensions;
use super::limits;
use super::unreadable::UnknownEncoding;

/// Passes a request on with its body decompressed, and compresses the answer. The limits of bodies hold for what they are when
/// decompressed, because they are counted while they are read.
pub(super) async fn translate(request: Request, next: Next) -> Response {
    let wants_compression = request.headers().contains_key(ACCEPT_ENCODING);
    let request = decompressed(request);
    if !wants_compression {
        return next.run(request).await;
    }
    let compression = CompressionLayer::new()
        // Compressing costs the server's time, and most clients are near: the fastest level is enough.
        .quality(CompressionLevel::Fastest)
        .compress_when(worth_it());
    let Ok(response) = compression.layer(next).oneshot(request).await;
    response.map(Body::new)
}

fn worth_it() -> impl Predicate {
    SizeAbove::new(limits::COMPRESSED_FROM)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES)
        .and(is_for_a_client)
}

/// Answers to workers are sent as they are: jobs count as delivered when the last byte of their own text has left.
fn is_for_a_client(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    !extensions::is_for_a_worker(headers)
}

/// The request with its body decompressed. One in another encoding than gzip is marked, and has a body that cannot be read.
fn decompressed(mut request: Request) -> Request {
    let mut encodings = request.headers().get_all(CONTENT_ENCODING).iter();
    let is_gzip = match (encodings.next(), encodings.next()) {
        (None, _) => return request,
        (Some(only), None) => match &*only.to_str().unwrap_or("?").trim().to_ascii_lowercase() {
            "gzip" | "x-gzip" => Some(true),
            "identity" | "" => Some(false),
            _ => None,
        },
        _ => None,
    };
    let Some(is_gzip) = is_gzip else {
        request.extensions_mut().insert(UnknownEncoding);
        return request
            .map(|_| Body::from_stream(stream::iter([Err::<Bytes, _>(io::Error::from(io::ErrorKind::InvalidData))])));
    };
    let (mut parts, mut body) = request.into_parts();
    parts.headers.remove(CONTENT_ENCODING);
    if is_gzip && !body.is_end_stream() {
        parts.headers.remove(CONTENT_LENGTH);
        body = gunzipped(body);
    }
    Request::from_parts(parts, body)
}

/// What is in a gzip body of any number of members, as the format has it. Other bytes behind them, or a member that is cut off, make the
/// whole body unreadable.
fn gunzipped(body: Body) -> Body {
    let compressed = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let mut members = GzipDecoder::new(compressed);
    members.multiple_members(true);
    Body::from_stream(ReaderStream::with_capacity(members, limits::UNPACKED_AT_ONCE))
}
