//! Bodies that note where their connection stands.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

use crate::phase::{Activity, Phase};

/// A body that tells the phase of its connection.
pub(crate) struct TrackedBody<B> {
    pub(crate) inner: B,
    pub(crate) activity: Arc<Activity>,
    pub(crate) part: Part,
}

/// What the body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// While the reader waits for bytes, the connection is in the phase `Body`.
    Request,
    /// When the body is sent or dropped, the connection is idle.
    Answer,
    /// The answer that upgrades the connection.
    Upgrade,
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        match self.part {
            Part::Request if frame.is_pending() => self.activity.enter(Phase::Body),
            Part::Request => self.activity.leave_body(),
            Part::Answer | Part::Upgrade => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for TrackedBody<B> {
    fn drop(&mut self) {
        match self.part {
            Part::Request => self.activity.leave_body(),
            Part::Answer => self.activity.enter(Phase::Idle),
            Part::Upgrade => {}
        }
    }
}
