//! Bad days of the network and of the queue, scripted.

mod heartbeat;
mod outage;
mod proxy;
mod results;
mod stops;
mod takes;

use end_to_end_tests::{FakeQueue, Worker, WorkerOptions, binary};
use serde_json::json;

/// Starts a fake queue and a worker with the puppet handler.
async fn start(options: WorkerOptions) -> (FakeQueue, Worker) {
    let queue = FakeQueue::start();
    let worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    worker.ready().await;
    (queue, worker)
}

/// Lets one good job through, to show that nothing is broken.
async fn still_works(queue: &FakeQueue, id: &str) {
    queue.job(id, &json!({"do": "ok"}));
    assert_eq!(queue.result(id).await["output"]["job"], id);
}
