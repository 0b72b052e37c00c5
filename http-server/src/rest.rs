//! The rest of a request's body that nobody has read: a client that still sends does not see its answer when the socket is closed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::tracked::TrackedBody;

/// Bytes of the rest that are read and dropped.
const MAX_BYTES: usize = 64 << 20;
/// How long that may take.
const MAX_TIME: Duration = Duration::from_secs(30);

/// A body whose rest comes back when it is dropped.
pub(crate) struct LentBody<B> {
    inner: Option<TrackedBody<B>>,
    back: Option<oneshot::Sender<TrackedBody<B>>>,
}

/// The rest of a body that was lent.
pub(crate) struct Rest<B>(Option<oneshot::Receiver<TrackedBody<B>>>);

/// Lends the body of a request. Of one whose client waits to be asked for it, there is no rest.
pub(crate) fn lend<B: Body + Unpin>(body: TrackedBody<B>, is_asked_for: bool) -> (LentBody<B>, Rest<B>) {
    if is_asked_for || body.is_end_stream() {
        return (LentBody { inner: Some(body), back: None }, Rest(None));
    }
    let (back, rest) = oneshot::channel();
    (LentBody { inner: Some(body), back: Some(back) }, Rest(Some(rest)))
}

impl<B: Body + Unpin> Rest<B> {
    /// Reads what is left, within limits. Nothing if somebody still reads the body.
    pub(crate) async fn discard(self) {
        let Some(mut body) = self.0.and_then(|mut rest| rest.try_recv().ok()) else { return };
        let read = async {
            let mut bytes = 0;
            while bytes <= MAX_BYTES {
                let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
                let Some(Ok(frame)) = next else { return };
                bytes += frame.data_ref().map_or(0, bytes::Buf::remaining);
            }
        };
        let _ = timeout(MAX_TIME, read).await;
    }
}

impl<B: Body + Unpin> Body for LentBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B> Drop for LentBody<B> {
    fn drop(&mut self) {
        if let Some((inner, back)) = self.inner.take().zip(self.back.take()) {
            // Nobody waits for more of it.
            inner.activity.leave_body();
            let _ = back.send(inner);
        }
    }
}
