//! Hands jobs back that this worker will not answer, and says goodbye, where the queue has announced that it supports it. All
//! of it is best effort: a job that is not handed back is given to another worker when its lease ends.

use std::sync::Arc;

use runpod_worker_core::JobId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::limits::{HAND_BACK_EFFORT, HAND_BACK_PAUSE, MAX_HAND_BACK, MAX_WAITING_HAND_BACKS};
use super::{PostReply, ResultSink};

/// Takes jobs to be handed back. No call blocks.
#[derive(Clone, Debug)]
pub struct HandBackHandle {
    jobs: mpsc::Sender<JobId>,
}

impl HandBackHandle {
    /// Hands a job back.
    pub fn hand_back(&self, job: JobId) {
        if self.jobs.try_send(job).is_err() {
            tracing::debug!("Too many jobs are being handed back; this one is left to its lease.");
        }
    }
}

/// The task that hands jobs back.
#[derive(Debug)]
pub struct HandBacks<Q> {
    queue: Arc<Q>,
    task: JoinHandle<()>,
}

/// Starts the task. It ends when every handle is dropped.
pub fn spawn<Q: ResultSink>(queue: Arc<Q>) -> (HandBackHandle, HandBacks<Q>) {
    let (jobs, inbox) = mpsc::channel(MAX_WAITING_HAND_BACKS);
    let task = tokio::spawn(run(Arc::clone(&queue), inbox));
    (HandBackHandle { jobs }, HandBacks { queue, task })
}

impl<Q: ResultSink> HandBacks<Q> {
    /// Waits for the last request, within the limit for one.
    pub async fn finish(&mut self) {
        if timeout(HAND_BACK_EFFORT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    /// Announces that this worker leaves. Nothing may be sent to the queue afterwards: it would make the worker known again.
    pub async fn goodbye(self) {
        let reply = self.queue.goodbye().await;
        tracing::debug!(?reply, "The worker has said goodbye.");
    }
}

async fn run<Q: ResultSink>(queue: Arc<Q>, mut inbox: mpsc::Receiver<JobId>) {
    let mut jobs = Vec::new();
    while inbox.recv_many(&mut jobs, MAX_HAND_BACK).await > 0 {
        hand_back(&*queue, &jobs).await;
        jobs.clear();
    }
}

/// Repeats the request until the queue has understood it or the time is up.
async fn hand_back<Q: ResultSink>(queue: &Q, jobs: &[JobId]) {
    let end = Instant::now() + HAND_BACK_EFFORT;
    while Instant::now() < end {
        match queue.hand_back(jobs).await {
            PostReply::NoRoute => return,
            PostReply::Status { code: 200..300, .. } => {
                tracing::debug!(jobs = jobs.len(), "Jobs were handed back to the queue.");
                return;
            }
            PostReply::Status { code: code @ 400..500, .. } if code != 429 => {
                tracing::debug!(code, "The queue does not take jobs back; they are left to their lease.");
                return;
            }
            PostReply::Status { .. } | PostReply::Failed(_) => sleep(HAND_BACK_PAUSE).await,
        }
    }
    tracing::warn!(
        jobs = jobs.len(),
        "Jobs could not be handed back: the queue gives them out again when their lease ends."
    );
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parking_lot::Mutex;

    use super::*;
    use crate::queue::ResultBody;

    /// Answers with scripted replies, the last of them for ever.
    #[derive(Default)]
    struct Script {
        replies: Mutex<Vec<PostReply>>,
        requests: Mutex<Vec<String>>,
    }

    impl Script {
        fn new(mut replies: Vec<PostReply>) -> Arc<Self> {
            replies.reverse();
            Arc::new(Self { replies: Mutex::new(replies), requests: Mutex::default() })
        }

        fn answer(&self, request: String) -> PostReply {
            self.requests.lock().push(request);
            let mut replies = self.replies.lock();
            if replies.len() > 1 { replies.pop().unwrap() } else { replies[0].clone() }
        }
    }

    impl ResultSink for Script {
        async fn post_final(&self, _: &JobId, _: ResultBody, _: bool) -> PostReply {
            PostReply::NoRoute
        }

        async fn post_chunk(&self, _: &JobId, _: Bytes) -> PostReply {
            PostReply::NoRoute
        }

        async fn post_progress(&self, _: &JobId, _: Bytes) -> PostReply {
            PostReply::NoRoute
        }

        async fn hand_back(&self, jobs: &[JobId]) -> PostReply {
            let jobs: Vec<&str> = jobs.iter().map(JobId::as_str).collect();
            self.answer(jobs.join(","))
        }

        async fn goodbye(&self) -> PostReply {
            self.answer("goodbye".to_owned())
        }
    }

    fn status(code: u16) -> PostReply {
        PostReply::Status { code, retry_after: None }
    }

    async fn requests(replies: Vec<PostReply>) -> (Vec<String>, std::time::Duration) {
        let (queue, begun) = (Script::new(replies), Instant::now());
        let (handle, mut task) = spawn(Arc::clone(&queue));
        handle.hand_back("a".into());
        handle.hand_back("b".into());
        drop(handle);
        task.finish().await;
        task.goodbye().await;
        (queue.requests.lock().clone(), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_are_handed_back_together_and_goodbye_comes_last() {
        assert_eq!(requests(vec![status(200)]).await.0, ["a,b", "goodbye"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_cannot_write_is_asked_again_and_one_that_refuses_is_not() {
        assert_eq!(requests(vec![status(503), status(503), status(200)]).await.0, ["a,b", "a,b", "a,b", "goodbye"]);
        for code in [400, 401, 404, 405, 409] {
            assert_eq!(requests(vec![status(code)]).await.0, ["a,b", "goodbye"], "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_never_answers_delays_the_end_by_a_few_seconds_only() {
        let (requests, took) = requests(vec![status(503)]).await;
        assert!(requests.len() > 3 && took <= HAND_BACK_EFFORT * 2, "{took:?}");
    }
}
