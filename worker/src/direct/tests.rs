//! The queue alone: what callers receive, and what the worker receives when they leave.

use std::time::Duration;

use bytes::Bytes;

use super::queue::{CallerMessage, DirectQueue, Rejection};
use crate::queue::{JobSource as _, ResultBody, ResultSink as _, StopReply, TakeReply};
use runpod_worker_core::{JobId, TakenJob};

const WAIT: Duration = Duration::from_secs(10);

fn queue(max_waiting: usize) -> DirectQueue {
    DirectQueue::new(max_waiting, WAIT)
}

fn job(id: &str) -> TakenJob {
    TakenJob::new(id.into(), Ok(Bytes::new()))
}

async fn taken(queue: &DirectQueue, want: usize) -> Vec<JobId> {
    match queue.take(want, false).await {
        TakeReply::Jobs(jobs) => jobs.into_iter().map(|job| job.id).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_caller_receives_the_messages_of_its_job_in_order() {
    let queue = queue(8);
    let mut first = queue.submit(job("1"), queue.share()).unwrap();
    let _second = queue.submit(job("2"), queue.share()).unwrap();
    assert_eq!(taken(&queue, 5).await, ["1".into(), "2".into()]);
    queue.post_progress(&"1".into(), Bytes::from_static(b"p")).await;
    queue.post_chunk(&"1".into(), Bytes::from_static(b"c")).await;
    queue.post_final(&"1".into(), "f".into(), true).await;
    assert!(matches!(first.next().await, CallerMessage::Progress(body) if body == "p"));
    assert!(matches!(first.next().await, CallerMessage::Chunk(body) if body == "c"));
    assert!(matches!(first.next().await, CallerMessage::Final(body) if body == "f"));
    assert!(first.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_poll_waits_for_a_job_and_ends_by_itself() {
    let queue = queue(8);
    assert!(matches!(queue.take(1, false).await, TakeReply::Nothing));
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { taken(&queue, 1).await }
    });
    tokio::task::yield_now().await;
    let _ticket = queue.submit(job("1"), queue.share()).unwrap();
    assert_eq!(waiting.await.unwrap(), ["1".into()]);
}

#[tokio::test]
async fn a_caller_who_leaves_removes_a_waiting_job_and_stops_a_running_one() {
    let queue = queue(8);
    let (waiting, running) =
        (queue.submit(job("waiting"), queue.share()).unwrap(), queue.submit(job("running"), queue.share()).unwrap());
    drop(waiting);
    assert_eq!(taken(&queue, 5).await, ["running".into()]);
    drop(running);
    assert_eq!(queue.stops().await, StopReply::Stop(vec!["running".into()]));
}

#[tokio::test]
async fn a_caller_who_leaves_with_the_result_stops_no_job() {
    let queue = queue(8);
    let mut ticket = queue.submit(job("1"), queue.share()).unwrap();
    taken(&queue, 1).await;
    queue.post_final(&"1".into(), ResultBody::default(), false).await;
    ticket.next().await;
    drop(ticket);
    let left = queue.submit(job("2"), queue.share()).unwrap();
    taken(&queue, 1).await;
    drop(left);
    assert_eq!(queue.stops().await, StopReply::Stop(vec!["2".into()]), "1 is not among them");
}

#[tokio::test]
async fn jobs_beyond_the_limit_are_rejected() {
    let queue = queue(2);
    let _first = queue.submit(job("1"), queue.share()).unwrap();
    let _second = queue.submit(job("2"), queue.share()).unwrap();
    assert_eq!(queue.submit(job("3"), queue.share()).unwrap_err(), Rejection::Full(2));
    taken(&queue, 1).await;
    let _third = queue.submit(job("3"), queue.share()).expect("a place is free");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_too_long_for_a_slot_is_rejected() {
    let queue = queue(8);
    let (mut late, mut running) =
        (queue.submit(job("late"), queue.share()).unwrap(), queue.submit(job("running"), queue.share()).unwrap());
    assert!(matches!(late.next().await, CallerMessage::Rejected(Rejection::Late(WAIT))));
    assert_eq!(taken(&queue, 5).await, ["running".into()]);
    let answer = tokio::spawn(async move { running.next().await });
    tokio::time::sleep(10 * WAIT).await;
    queue.post_final(&"running".into(), ResultBody::default(), false).await;
    assert!(matches!(answer.await.unwrap(), CallerMessage::Final(_)), "a job that runs has its own deadline");
}

#[tokio::test]
async fn a_closed_queue_rejects_waiting_jobs_and_lets_running_ones_finish() {
    let queue = queue(8);
    let mut running = queue.submit(job("running"), queue.share()).unwrap();
    taken(&queue, 1).await;
    let mut waiting = queue.submit(job("waiting"), queue.share()).unwrap();
    queue.close();
    assert!(matches!(waiting.next().await, CallerMessage::Rejected(Rejection::Closed)));
    assert_eq!(queue.submit(job("new"), queue.share()).unwrap_err(), Rejection::Closed);
    queue.post_final(&"running".into(), ResultBody::default(), false).await;
    assert!(matches!(running.next().await, CallerMessage::Final(_)));
}

#[tokio::test]
async fn at_the_end_every_job_without_a_result_is_rejected() {
    let queue = queue(8);
    let mut handed_back = queue.submit(job("1"), queue.share()).unwrap();
    taken(&queue, 1).await;
    queue.post_chunk(&"1".into(), Bytes::from_static(b"c")).await;
    let mut waiting = queue.submit(job("2"), queue.share()).unwrap();
    queue.end();
    assert!(matches!(handed_back.next().await, CallerMessage::Chunk(_)), "messages that were sent are received");
    assert!(matches!(handed_back.next().await, CallerMessage::Rejected(Rejection::Closed)));
    assert!(matches!(waiting.next().await, CallerMessage::Rejected(Rejection::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_does_not_read_counts_as_gone() {
    let queue = queue(8);
    let mut slow = queue.submit(job("1"), queue.share()).unwrap();
    taken(&queue, 1).await;
    let begin = tokio::time::Instant::now();
    for _ in 0..40 {
        queue.post_chunk(&"1".into(), Bytes::from_static(b"c")).await;
    }
    assert_eq!(begin.elapsed(), Duration::from_secs(30), "it is waited for once");
    assert_eq!(queue.stops().await, StopReply::Stop(vec!["1".into()]));
    let mut received = 0;
    while let CallerMessage::Chunk(_) = slow.next().await {
        received += 1;
    }
    assert!(received == 16 && slow.is_over(), "{received} chunks were kept for it");
}
