//! Bodies on their way through: bounded in size and in time.

use std::sync::{Arc, OnceLock};

use axum::body::{Body, HttpBody as _};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::limits::{BODY, DISCARDED_BODY};
use super::refusal::Refusal;

/// Why a body ended before its end. If it is that of a request, the client is to blame for what follows, and not the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutOff {
    /// It has too many bytes.
    TooLarge,
    /// It is not what its header says: its chunks cannot be read, or the client has gone.
    Broken,
    /// It did not come in time.
    TooSlow,
}

impl From<CutOff> for Refusal {
    fn from(reason: CutOff) -> Self {
        match reason {
            CutOff::TooLarge => Self::TooLarge,
            CutOff::Broken => Self::BrokenBody,
            CutOff::TooSlow => Self::SlowBody,
        }
    }
}

/// Whether a body was cut off, and why.
#[derive(Debug, Clone, Default)]
pub(super) struct Fate(Arc<OnceLock<CutOff>>);

impl Fate {
    pub(super) fn cut_off(&self) -> Option<CutOff> {
        self.0.get().copied()
    }

    /// Notes the first reason; its text.
    fn note(&self, reason: CutOff) -> String {
        Refusal::from(*self.0.get_or_init(|| reason)).to_string()
    }
}

/// Whether a body is known to have too many bytes before it is read.
pub(super) fn is_too_large(body: &Body) -> bool {
    body.size_hint().lower() > BODY as u64
}

/// The body of a request. What is too much is discarded for a while: a client that is not read from does not see its answer.
pub(super) fn of_request(body: Body, ends: Instant, fate: &Fate) -> Body {
    limited(body, ends, DISCARDED_BODY, fate.clone(), ())
}

/// The body of an answer, which keeps `guard` to its end. Its head is gone when it turns out to be too large: it is cut off.
pub(super) fn of_answer<G: Send + 'static>(body: Body, ends: Instant, guard: G) -> Body {
    limited(body, ends, 0, Fate::default(), guard)
}

fn limited<G: Send + 'static>(body: Body, ends: Instant, discarded: usize, fate: Fate, guard: G) -> Body {
    if body.is_end_stream() {
        // One of unknown length would be announced as one in chunks.
        return Body::empty();
    }
    let state = (body.into_data_stream(), 0_usize, guard);
    let parts = futures_util::stream::unfold(Some(state), move |state| {
        let fate = fate.clone();
        async move {
            let (mut parts, mut bytes, guard) = state?;
            loop {
                let part = match timeout_at(ends, parts.next()).await {
                    Ok(None) if bytes <= BODY => return None,
                    Ok(None) => return Some((Err(fate.note(CutOff::TooLarge)), None)),
                    Ok(Some(Ok(part))) => part,
                    Ok(Some(Err(_))) => return Some((Err(fate.note(CutOff::Broken)), None)),
                    Err(_) => return Some((Err(fate.note(CutOff::TooSlow)), None)),
                };
                bytes += part.len();
                if bytes <= BODY {
                    return Some((Ok(part), Some((parts, bytes, guard))));
                }
                let text = fate.note(CutOff::TooLarge);
                if bytes > BODY + discarded {
                    return Some((Err(text), None));
                }
            }
        }
    });
    Body::from_stream(parts)
}
