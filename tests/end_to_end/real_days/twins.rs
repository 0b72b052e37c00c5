//! Two workers with the same id.

use end_to_end_tests::{Endpoint, Worker, WorkerOptions, binary, eventually, until};
use rustix::process::Signal;
use serde_json::json;

/// A worker with this id and a spool of its own, as in another container.
fn twin(endpoint: &Endpoint, number: u32) -> Worker {
    let mut env = endpoint.worker_env("twin");
    let spool = endpoint.folder().join(format!("spool-{number}"));
    env.push(("RUNPOD_WORKER_SPOOL_DIR".to_owned(), spool.display().to_string()));
    Worker::start_with(env, &binary("puppet-handler"), WorkerOptions::default())
}

fn is_noticed(endpoint: &Endpoint) -> bool {
    let is_warning = |line: &str| (line.contains("WARN") || line.contains("ERROR")) && line.contains("twin");
    endpoint.daemon.log().lines().any(is_warning)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_with_the_same_id_is_noticed_and_stops_reach_the_first() {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let mut first = twin(&endpoint, 1);
    first.ready().await;
    let id = super::running(&client, &endpoint.folder().join("never")).await;
    let second = twin(&endpoint, 2);
    until("the endpoint to say so", || is_noticed(&endpoint)).await;
    client.cancel(&id).await;
    eventually("the job to be stopped", || async {
        (first.health().await["worker"]["jobs"]["cancelled"] == 1).then_some(())
    })
    .await;
    assert!(first.daemon.is_running());
    assert_eq!(client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_started_again_with_its_id_is_no_second_worker() {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let mut worker = twin(&endpoint, 1);
    for signal in [Signal::TERM, Signal::TERM, Signal::KILL] {
        worker.ready().await;
        assert_eq!(client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
        assert!(!is_noticed(&endpoint), "{}", endpoint.daemon.log());
        worker.daemon.signal(signal);
        worker.daemon.wait(super::END);
        worker = twin(&endpoint, 1);
    }
    // One that was killed said no goodbye: the next one waits until it has been silent for a while.
    assert_eq!(client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
    assert!(!is_noticed(&endpoint), "{}", endpoint.daemon.log());
}
