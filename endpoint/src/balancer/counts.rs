//! What `/metrics` shows of the requests, and the layer that counts them.

use std::ops::AddAssign;
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
use crate::store::Distribution;

/// Classes of status, from 1xx on.
pub(crate) const CLASSES: usize = 5;

/// What was counted since the start of the program.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestTotals {
    /// Answers that have begun, by class of status.
    pub(crate) answers: [u64; CLASSES],
    /// How long requests waited for a worker, whether they got one or not.
    pub(crate) wait: Distribution,
    /// From the arrival of a request to the last byte of its answer. WebSockets are left out.
    pub(crate) duration: Distribution,
}

/// The requests of one endpoint, or of several.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestFigures {
    pub(crate) totals: RequestTotals,
    /// Requests that wait for a worker.
    pub(crate) waiting: usize,
    /// Requests at workers, open WebSockets included.
    pub(crate) in_progress: usize,
}

impl AddAssign for RequestFigures {
    fn add_assign(&mut self, other: Self) {
        self.totals.answers.iter_mut().zip(other.totals.answers).for_each(|(sum, more)| *sum += more);
        self.totals.wait += other.totals.wait;
        self.totals.duration += other.totals.duration;
        self.waiting += other.waiting;
        self.in_progress += other.in_progress;
    }
}

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
