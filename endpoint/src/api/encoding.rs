//! Packed bodies: gzip in requests is undone, and large answers are packed for clients that ask for it.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tower::{Layer as _, ServiceExt as _};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::decompression::RequestDecompressionLayer;

use super::error::ApiError;
use super::extensions;
use super::limits;

/// Adds both to the routes. The limits of bodies hold for what they are when unpacked, because they are counted while they are read.
pub fn with_encodings<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.layer(from_fn(encode))
}

/// Most requests have no part in this, and a layer costs each of them a copy of all layers below it: this one takes its services up
/// only for the requests that need them.
async fn encode(mut request: Request, next: Next) -> Result<Response, ApiError> {
    let is_packed = is_packed(request.headers_mut())?;
    let may_pack = request.headers().contains_key(ACCEPT_ENCODING);
    if !is_packed && !may_pack {
        return Ok(next.run(request).await);
    }
    let packing = CompressionLayer::new()
        // Packing costs the server's time, and most clients are near: the fastest level is enough.
        .quality(CompressionLevel::Fastest)
        .compress_when(worth_it());
    let next = next.map_request(|request: Request<_>| request.map(Body::new));
    let unpacked = RequestDecompressionLayer::new().layer(next);
    let Ok(response) = packing.layer(unpacked).oneshot(request).await;
    Ok(response.map(Body::new))
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

/// Whether the body is packed. Another encoding than gzip is refused: the body would be read as it is packed.
fn is_packed(headers: &mut HeaderMap) -> Result<bool, ApiError> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let gzip = match (encodings.next(), encodings.next()) {
        (None, _) => return Ok(false),
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
    Ok(gzip)
}
