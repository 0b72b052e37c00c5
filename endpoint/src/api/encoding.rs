//! Compressed bodies: requests in gzip are decompressed, and large answers are compressed for clients that ask for it.

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_ENCODING;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};
use tower_http::decompression::RequestDecompressionLayer;

use super::error::ApiError;
use super::extensions;
use super::limits;

/// Adds both to the routes. The limits of bodies hold for their decompressed size, because they are counted while they are read.
pub fn with_encodings<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    let worth_it = SizeAbove::new(limits::COMPRESSED_FROM)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES)
        .and(is_for_a_client);
    // Packing costs the server's time, and most clients are near: the fastest level is enough.
    let compressed = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_it);
    routes.layer(compressed).layer(RequestDecompressionLayer::new()).layer(from_fn(refuse_unknown))
}

/// Answers to workers are sent as they are: jobs count as delivered when the last byte of their own text has left.
fn is_for_a_client(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    !extensions::is_for_a_worker(headers)
}

/// Refuses a request in another encoding, which would be read as if it were not compressed, in this API's words.
async fn refuse_unknown(mut request: Request, next: Next) -> Result<Response, ApiError> {
    let headers = request.headers_mut();
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let gzip = match (encodings.next(), encodings.next()) {
        (None, _) => return Ok(next.run(request).await),
        (Some(only), None) => match &*only.to_str().unwrap_or("?").trim().to_ascii_lowercase() {
            "gzip" | "x-gzip" => true,
            "identity" | "" => false,
            _ => return Err(ApiError::UnknownEncoding),
        },
        _ => return Err(ApiError::UnknownEncoding),
    };
    headers.remove(CONTENT_ENCODING);
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(next.run(request).await)
}
