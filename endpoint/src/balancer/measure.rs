//! The layer that counts requests and measures how long they take.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

use super::workers::Balancer;

/// Counts a request when its answer begins, and its duration when that has ended. If the client disconnects before, it is not counted.
pub(super) async fn count(State(balancer): State<Arc<Balancer>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let answer = next.run(request).await;
    balancer.note_answer(answer.status());
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return answer;
    }
    answer.map(|inner| Body::new(TimedBody { inner, balancer, started }))
}

/// The body of an answer: its request lasts until it is sent or dropped.
struct TimedBody {
    inner: Body,
    balancer: Arc<Balancer>,
    started: Instant,
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        self.balancer.note_duration(self.started.elapsed());
    }
}
