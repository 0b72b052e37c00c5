//! Sends jobs to a worker, and requeues them when the connection breaks before the reply is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Extension;
use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;

use crate::store::{JobId, Store, TakenJob};

/// The jobs of one reply. If it is dropped before [`Receipt::delivered`], they are requeued.
pub(crate) struct Receipt {
    store: Arc<dyn Store>,
    endpoint: String,
    worker: String,
    jobs: Vec<(JobId, u32)>,
}

impl Receipt {
    pub(crate) fn new(store: Arc<dyn Store>, endpoint: &str, worker: &str, jobs: &[TakenJob]) -> Self {
        let jobs = jobs.iter().map(|job| (Arc::clone(&job.id), job.attempt)).collect();
        Self { store, endpoint: endpoint.to_owned(), worker: worker.to_owned(), jobs }
    }

    fn delivered(&mut self) {
        self.jobs.clear();
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        if jobs.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let (endpoint, worker) = (std::mem::take(&mut self.endpoint), std::mem::take(&mut self.worker));
        tracing::info!(
            worker,
            jobs = jobs.len(),
            "The connection closed before the jobs were delivered. They are queued again."
        );
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for (id, attempt) in jobs {
                    if let Err(error) = store.return_unsent(&endpoint, &worker, &id, attempt).await {
                        tracing::warn!(worker, job = %id, %error, "Cannot requeue a job that did not reach its worker: it waits for its lease.");
                    }
                }
            });
        }
    }
}

/// The jobs in a reply, attached to the response for the middleware that runs after the route.
#[derive(Debug, Clone)]
pub(crate) struct HandedOut {
    pub(crate) jobs: Vec<JobId>,
    pub(crate) json: Bytes,
}

/// A JSON reply that carries jobs.
pub(crate) fn respond(json: Vec<u8>, receipt: Receipt) -> Response {
    let headers = [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_LENGTH, json.len().to_string())];
    let json = Bytes::from(json);
    let jobs = receipt.jobs.iter().map(|(id, _)| Arc::clone(id)).collect();
    let handed_out = Extension(HandedOut { jobs, json: json.clone() });
    let body = Body::from_stream(Delivery { rest: json, step: Step::Most, receipt });
    (headers, handed_out, body).into_response()
}

/// The reply in two parts. The server flushes the first part and polls the connection before it asks for the last byte: the jobs
/// count as delivered when it asks, because the peer was still connected.
struct Delivery {
    rest: Bytes,
    step: Step,
    receipt: Receipt,
}

enum Step {
    Most,
    Flush,
    Last,
}

impl Stream for Delivery {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.step {
            Step::Most => {
                self.step = Step::Flush;
                let most = self.rest.len().saturating_sub(1);
                Poll::Ready(Some(Ok(self.rest.split_to(most))))
            }
            Step::Flush => {
                self.step = Step::Last;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Step::Last if self.rest.is_empty() => Poll::Ready(None),
            Step::Last => {
                self.receipt.delivered();
                Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))))
            }
        }
    }
}
