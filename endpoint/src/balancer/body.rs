//! Bodies on their way through: bounded in size and in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, HttpBody as _};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::limits::{BODY, DISCARDED_BODY};
use super::refusal::Refusal;

/// Whether a body was cut off because it had too many bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct TooLarge(Arc<AtomicBool>);

impl TooLarge {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether a body is known to have too many bytes before it is read.
pub(super) fn is_too_large(body: &Body) -> bool {
    body.size_hint().lower() > BODY as u64
}

/// The body of a request. What is too much is discarded for a while: a client that is not read from does not see its answer.
pub(super) fn of_request(body: Body, ends: Instant, too_large: &TooLarge) -> Body {
    limited(body, ends, DISCARDED_BODY, too_large.clone(), ())
}

/// The body of an answer, which keeps `guard` to its end. Its head is gone when it turns out to be too large: it is cut off.
pub(super) fn of_answer<G: Send + 'static>(body: Body, ends: Instant, guard: G) -> Body {
    limited(body, ends, 0, TooLarge::default(), guard)
}

fn limited<G: Send + 'static>(body: Body, ends: Instant, discarded: usize, too_large: TooLarge, guard: G) -> Body {
    if body.is_end_stream() {
        // One of unknown length would be announced as one in chunks.
        return Body::empty();
    }
    let state = (body.into_data_stream(), 0_usize, guard);
    let parts = futures_util::stream::unfold(Some(state), move |state| {
        let too_large = too_large.clone();
        async move {
            let (mut parts, mut bytes, guard) = state?;
            loop {
                let part = match timeout_at(ends, parts.next()).await {
                    Ok(None) if bytes <= BODY => return None,
                    Ok(None) => return Some((Err(Refusal::TooLarge.to_string()), None)),
                    Ok(Some(Ok(part))) => part,
                    Ok(Some(Err(error))) => return Some((Err(error.to_string()), None)),
                    Err(_) => return Some((Err(Refusal::TooSlow.to_string()), None)),
                };
                bytes += part.len();
                if bytes <= BODY {
                    return Some((Ok(part), Some((parts, bytes, guard))));
                }
                too_large.0.store(true, Ordering::Relaxed);
                if bytes > BODY + discarded {
                    return Some((Err(Refusal::TooLarge.to_string()), None));
                }
            }
        }
    });
    Body::from_stream(parts)
}
