//! Every answer on the stop channel.

use std::time::Duration;

use end_to_end_tests::{Reply, WorkerOptions, eventually};
use serde_json::json;

use super::{start, still_works};

#[tokio::test(flavor = "multi_thread")]
async fn answers_on_the_stop_channel_that_stop_nothing_are_followed_by_a_pause() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    let answers = [
        Reply::status(204),
        Reply::text("text/html", "<html>"),
        Reply::json("{"),
        Reply::json("[]"),
        Reply::json(r#"{"jobsToStop":"all"}"#),
        Reply::status(404),
    ];
    let count = answers.len();
    answers.into_iter().for_each(|answer| queue.stop(answer));
    eventually("all answers to be fetched", || async { (queue.seen("job-stop").len() > count).then_some(()) }).await;
    let polls = queue.seen("job-stop");
    let whole = polls[count].at - polls[0].at;
    assert!(whole >= Duration::from_secs(3), "{count} answers within {whole:?}");
    assert_eq!(polls[0].query, "gpu=LOCAL", "nothing is added to the stop URL");
    still_works(&queue, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_on_the_stop_channel_are_honored_among_other_values() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    queue.job("unwanted", &json!({"do": "check_cancel"}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("unwanted")).await;
    queue.stop(Reply::json(r#"{"jobsToStop":[7,null,"unwanted","unknown"]}"#));
    eventually("the job to be stopped", || async {
        (worker.health().await["worker"]["jobs"]["cancelled"] == 1).then_some(())
    })
    .await;
    still_works(&queue, "after").await;
    assert!(!queue.seen("job-done").iter().any(|seen| seen.job.as_deref() == Some("unwanted")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_overtakes_its_job_counts() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    eventually("the take to be held", || async { queue.seen("job-take").pop() }).await;
    queue.stop(Reply::json(r#"{"jobsToStop":["overtaken"]}"#));
    // The next stop poll follows only when the answer to the last one has been read.
    eventually("the stop to be fetched", || async { (queue.seen("job-stop").len() > 1).then_some(()) }).await;
    queue.job("overtaken", &json!({"do": "check_cancel"}));
    still_works(&queue, "after").await;
    assert_eq!(worker.health().await["worker"]["jobs"]["cancelled"], 1);
    assert!(!queue.seen("job-done").iter().any(|seen| seen.job.as_deref() == Some("overtaken")));
}
