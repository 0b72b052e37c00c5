//! `/health`.

use std::time::Duration;

use runpod_endpoint::store::WorkerEvent;
use serde_json::json;
use tokio::time::sleep;

use crate::support::Api;

#[tokio::test(start_paused = true)]
async fn all_eleven_counters_are_there_from_the_start() {
    let text = Api::new().get("health").await.text;
    assert_eq!(
        text,
        r#"{"jobs":{"completed":0,"failed":0,"inProgress":0,"inQueue":0,"retried":0},"workers":{"idle":0,"initializing":0,"ready":0,"running":0,"throttled":0,"unhealthy":0}}"#
    );
}

#[tokio::test(start_paused = true)]
async fn four_jobs_of_one_worker_count_as_one_running_worker() {
    let api = Api::new();
    for _ in 0..5 {
        api.run(r#"{"input": 1}"#).await;
    }
    api.get("job-take-batch/w1?batch_size=4").await;
    let health = api.get("health").await.json();
    assert_eq!((&health["jobs"]["inProgress"], &health["workers"]["running"]), (&json!(4), &json!(1)));
    assert_eq!((&health["jobs"]["inQueue"], &health["workers"]["idle"]), (&json!(1), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_worker_goes_from_initializing_to_idle_to_lost_to_forgotten() {
    let api = Api::new();
    let workers = || async { api.get("health").await.json()["workers"].clone() };
    api.ping("w1", "").await;
    assert_eq!(workers().await["initializing"], 1);
    assert_eq!(api.take("w1").await, "");
    let idle = workers().await;
    assert_eq!((&idle["idle"], &idle["ready"], &idle["initializing"]), (&json!(1), &json!(1), &json!(0)));
    sleep(Duration::from_secs(41)).await;
    assert_eq!((&workers().await["unhealthy"], &workers().await["idle"]), (&json!(0), &json!(0)));
    let lost = || async { api.app.store.health("ep").await.unwrap().workers.lost };
    assert_eq!(lost().await, 1);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(lost().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_room_on_the_machine_is_throttled_until_its_process_starts() {
    let api = Api::new();
    let workers = || async { api.get("health").await.json()["workers"].clone() };
    for (event, state) in [
        (WorkerEvent::Throttled, "throttled"),
        (WorkerEvent::Starting, "initializing"),
        (WorkerEvent::Failing, "unhealthy"),
        (WorkerEvent::Starting, "initializing"),
    ] {
        api.app.store.worker_event("ep", "ep-0", event).await.unwrap();
        let workers = workers().await;
        let counted: u64 = workers.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!((&workers[state], counted), (&json!(1), 1), "{event:?}: {workers}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_answers_requests_itself_is_idle_or_runs_and_is_lost_when_nothing_more_is_heard() {
    let api = Api::new();
    let store = &api.app.store;
    let note = async |event| store.worker_event("ep", "ep-0", event).await.unwrap();
    note(WorkerEvent::Starting).await;
    for (event, state, requests) in [
        (WorkerEvent::Serving(0), "idle", 0),
        (WorkerEvent::Serving(2), "running", 2),
        (WorkerEvent::Failing, "unhealthy", 2),
        (WorkerEvent::Serving(1), "running", 1),
        (WorkerEvent::Serving(0), "idle", 0),
    ] {
        note(event).await;
        let workers = api.get("health").await.json()["workers"].clone();
        assert_eq!(workers[state], 1, "{event:?}: {workers}");
        assert_eq!(store.workers("ep", 9).await.unwrap()[0].jobs, requests, "{event:?}");
    }
    assert_eq!(api.get("health").await.json()["workers"]["ready"], 1);
    sleep(Duration::from_secs(41)).await;
    assert_eq!(store.health("ep").await.unwrap().workers.lost, 1);
    note(WorkerEvent::Gone).await;
    assert!(store.workers("ep", 9).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_holds_its_poll_open_is_not_silent() {
    let api = Api::new();
    let polling = api.clone();
    let poll = tokio::spawn(async move {
        for _ in 0..4 {
            polling.take("w1").await;
        }
    });
    sleep(Duration::from_secs(90)).await;
    assert_eq!(api.get("health").await.json()["workers"]["idle"], 1);
    poll.abort();
}
