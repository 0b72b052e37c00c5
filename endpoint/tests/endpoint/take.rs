//! job-take, job-take-batch and the heartbeat.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::support::{Api, HOLD};

#[tokio::test(start_paused = true)]
async fn an_idle_poll_is_held_open() {
    let api = Api::new();
    for path in ["job-take/w1", "job-take-batch/w1?batch_size=4", "job-stop/w1"] {
        let started = Instant::now();
        assert_eq!(api.get(path).await.status, StatusCode::NO_CONTENT);
        assert_eq!(started.elapsed().as_secs(), HOLD.as_secs(), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_poll_gets_a_new_job_at_once() {
    let api = Api::new();
    let started = Instant::now();
    let submit = async {
        sleep(Duration::from_secs(10)).await;
        api.run(r#"{"input": 1}"#).await
    };
    let (taken, id) = tokio::join!(api.take("w1"), submit);
    assert_eq!(taken, id);
    assert_eq!(started.elapsed().as_secs(), 10);
    assert_eq!(api.status(&id).await["delayTime"], 0);
}

#[tokio::test(start_paused = true)]
async fn one_job_goes_to_one_of_many_polls() {
    let api = Api::new();
    let names: Vec<_> = (0..20).map(|number| format!("w{number}")).collect();
    let submit = async {
        sleep(Duration::from_secs(1)).await;
        (api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await)
    };
    let (taken, (first, second)) = tokio::join!(join_all(names.iter().map(|name| api.take(name))), submit);
    let mut taken: Vec<_> = taken.into_iter().filter(|id| !id.is_empty()).collect();
    let mut submitted = vec![first, second];
    taken.sort();
    submitted.sort();
    assert_eq!(taken, submitted);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_gave_up_takes_no_job_with_it() {
    let api = Api::new();
    let given_up = tokio::time::timeout(Duration::from_secs(1), api.take("w1")).await;
    assert!(given_up.is_err());
    let submit = async {
        sleep(Duration::from_secs(1)).await;
        api.run(r#"{"input": 1}"#).await
    };
    let (taken, id) = tokio::join!(api.take("w2"), submit);
    assert_eq!(taken, id);
}

#[tokio::test(start_paused = true)]
async fn jobs_leave_first_in_first_out_and_low_priority_last() {
    let api = Api::new();
    let low = api.run(r#"{"input": 0, "policy": {"lowPriority": true}}"#).await;
    let first = api.run(r#"{"input": 1}"#).await;
    let second = api.run(r#"{"input": 2}"#).await;
    assert_eq!([api.take("w1").await, api.take("w1").await, api.take("w1").await], [first, second, low]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_at_most_the_size_that_was_asked_for() {
    let api = Api::new();
    for number in 0..4 {
        api.run(&format!(r#"{{"input": {number}}}"#)).await;
    }
    let batch = api.get("job-take-batch/w1?gpu=LOCAL&batch_size=3&job_in_progress=0").await.json();
    let inputs: Vec<_> = batch.as_array().unwrap().iter().map(|job| job["input"].clone()).collect();
    assert_eq!(inputs, [0, 1, 2]);
    assert_eq!(api.get("job-take/w1").await.json()["input"], 3, "the same worker may use the single route next");
}

#[tokio::test(start_paused = true)]
async fn parameters_glued_to_the_path_are_understood() {
    let api = Api::new();
    let ids = [api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await];
    let batch = api.get("job-take-batch/w1&batch_size=2&job_in_progress=0").await.json();
    assert_eq!(batch.as_array().unwrap().len(), 2);
    for id in &ids {
        assert_eq!(api.status(id).await["workerId"], "w1");
        let reply = api.post(&format!("job-done/w1/{id}&isStream=false"), r#"{"output": 1}"#).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(api.state(id).await, "COMPLETED");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unexpanded_placeholder_is_a_worker_like_any_other() {
    for name in ["$RUNPOD_POD_ID", "%24RUNPOD_POD_ID"] {
        let api = Api::new();
        let id = api.run(r#"{"input": 1}"#).await;
        assert_eq!(api.take(name).await, id);
        api.ping("w1", &id).await;
        assert_eq!(api.status(&id).await["workerId"], "w1", "its real name comes with the first heartbeat");
        api.post(&format!("cancel/{id}"), "").await;
        let stop = api.get(&format!("job-stop/{name}?gpu=LOCAL")).await;
        assert_eq!(stop.text, format!(r#"{{"jobsToStop":["{id}"]}}"#));
    }
}

#[tokio::test(start_paused = true)]
async fn polls_may_be_posts_and_unknown_parameters_are_ignored() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.post("job-take/w1?gpu=A+B&novel=%2C&retry_ping=0", "").await.field("id"), id);
    assert_eq!(api.get("ping/w1?gpu=A+B&retry_ping=3&novel=1").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_worker_gets_no_job_until_it_is_a_fresh_one() {
    let api = Api::new();
    let [held, next] = [api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await];
    let unhealthy = || async { api.get("health").await.json()["workers"]["unhealthy"].clone() };
    api.ping("w1", "").await;
    assert_eq!(api.take("w1").await, held);
    api.get("ping/w1?status=unhealthy&check=gpu&reason=RuntimeError%3A+no").await;
    api.ping("w1", &held).await;
    assert_eq!(unhealthy().await, 1, "a heartbeat for the job that it still holds does not say that all is well");
    assert_eq!(api.take("w1").await, "");
    api.done("w1", &held, r#"{"output": 1}"#).await;
    assert_eq!((api.take("w1").await.as_str(), unhealthy().await), ("", 1.into()));
    // The same name, started again.
    api.ping("w1", "").await;
    assert_eq!(unhealthy().await, 1, "it is not known to work before it asks for a job");
    assert_eq!(api.take("w1").await, next);
    assert_eq!(unhealthy().await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_wake_up_of_a_refused_worker_goes_to_another_one() {
    let api = Api::new();
    let refused = api.clone();
    let held = tokio::spawn(async move { refused.take("w1").await });
    let waiting = api.clone();
    let other = tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        waiting.take("w2").await
    });
    sleep(Duration::from_secs(2)).await;
    api.get("ping/w1?status=unhealthy").await;
    let started = Instant::now();
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(other.await.unwrap(), id);
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(held.await.unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn a_refreshing_worker_gets_no_further_job() {
    let api = Api::new();
    let first = api.run(r#"{"input": 1}"#).await;
    let second = api.run(r#"{"input": 2}"#).await;
    api.take("w1").await;
    api.done("w1", &first, r#"{"output": 1, "stopPod": true}"#).await;
    assert_eq!(api.state(&first).await, "COMPLETED");
    assert_eq!(api.take("w1").await, "");
    assert_eq!(api.take("w2").await, second);
}

#[tokio::test(start_paused = true)]
async fn workers_get_no_jobs_once_the_endpoint_drains() {
    let api = Api::new();
    let drain = async {
        sleep(Duration::from_secs(5)).await;
        api.app.drain.cancel();
    };
    let started = Instant::now();
    let (taken, ()) = tokio::join!(api.take("w1"), drain);
    assert_eq!((taken.as_str(), started.elapsed().as_secs()), ("", 5));
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.take("w1").await, "");
    assert_eq!(api.state(&id).await, "IN_QUEUE");
    assert!(started.elapsed() > Duration::from_secs(5), "an empty answer at once would be asked again at once");
}

#[tokio::test(start_paused = true)]
async fn request_ids_in_headers_are_never_trusted() {
    let api = Api::new();
    let ids = [api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await];
    api.get("job-take-batch/w1?batch_size=2").await;
    let request = Request::post(format!("/v2/ep/job-done/w1/{}?isStream=false", ids[0]))
        .header("X-Request-ID", &ids[1])
        .body(Body::from(r#"{"output": 1}"#));
    api.send(request.unwrap()).await;
    assert_eq!((api.state(&ids[0]).await, api.state(&ids[1]).await), ("COMPLETED".into(), "IN_PROGRESS".into()));
}
