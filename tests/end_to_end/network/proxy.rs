//! Proxies, as the usual variables name them, and TLS.

use std::time::Duration;

use end_to_end_tests::{FakeQueue, Worker, WorkerOptions, binary, eventually, free_port, worker_env};
use rustix::process::Signal;

use super::still_works;

#[tokio::test(flavor = "multi_thread")]
async fn http_proxy_is_used() {
    // A proxy gets the whole URL in the request line; the scripted queue looks only at its path.
    let queue = FakeQueue::start();
    let options = WorkerOptions::default().env("HTTP_PROXY", &format!("http://127.0.0.1:{}", queue.port()));
    let env = worker_env("http://queue.invalid/v2/test", "worker-1");
    let worker = Worker::start_with(env, &binary("puppet-handler"), options);
    still_works(&queue, "through-the-proxy").await;
    assert!(!queue.seen("ping").is_empty() && !queue.seen("job-stop").is_empty());
    assert_eq!(worker.health().await["worker"]["lastPing"]["failures"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_is_respected() {
    let queue = FakeQueue::start();
    let options = WorkerOptions::default()
        .env("HTTP_PROXY", &format!("http://127.0.0.1:{}", free_port()))
        .env("NO_PROXY", "127.0.0.1,localhost");
    let _worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    still_works(&queue, "past-the-proxy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_speak_tls_is_said_and_survived() {
    let queue = FakeQueue::start();
    let env = worker_env(&queue.base().replace("http://", "https://"), "worker-1");
    let mut worker = Worker::start_with(env, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    eventually("a line about it", || async {
        worker.daemon.log().contains("the queue cannot be reached").then_some(())
    })
    .await;
    assert!(queue.seen("job-take").is_empty());
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
}
