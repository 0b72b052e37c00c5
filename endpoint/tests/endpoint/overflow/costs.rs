//! What the jobs at the other endpoint may cost.

use super::*;

/// One that may run for five seconds.
const SHORT: &str = r#"{"input": 1, "policy": {"executionTimeout": 5000}}"#;

#[tokio::test]
async fn what_jobs_there_may_still_cost_is_set_aside_whether_they_run_or_wait() {
    let far = Api::new();
    // A dollar a second: with the half minute that stopping may take, a short job may cost 35 dollars.
    let near = Near::start(&serve(far.router.clone()).await, &format!("{AT_ONCE}\n{}", budget(80)));
    let long = near.api.run(r#"{"input": 1, "policy": {"executionTimeout": 60000}}"#).await;
    for _ in 0..3 {
        near.api.run(SHORT).await;
    }
    eventually("two of them are there", async || (held(&far).await == 2).then_some(())).await;
    let first = taken(&far).await;
    // It has cost 20: with the 35 of the other one, another 35 are too much.
    far.done("f1", id(&first), r#"{"output": 1, "cost": {"dollars": 20.0}}"#).await;
    near_total(&near, 20.0).await;
    assert_eq!((held(&far).await, queued(&near).await), (1, 3), "one of those that wait is there");
    let second = taken(&far).await;
    far.done("f1", id(&second), r#"{"output": 1, "cost": {"dollars": 1.0}}"#).await;
    eventually("its money is free for the next one", async || (held(&far).await == 1).then_some(())).await;
    assert_eq!(near.api.status(&long).await["status"], "IN_QUEUE");
    let last = near.api.app.store.elsewhere("ep").await.unwrap();
    assert_eq!((last.len(), last[0].run_time), (1, Duration::from_secs(5)));
}

#[tokio::test]
async fn what_was_spent_in_the_last_hour_is_missing_for_the_next_job() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, &format!("{AT_ONCE}\n{}", budget(36)));
    let (first, second) = (near.api.run(SHORT).await, near.api.run(SHORT).await);
    let there = taken(&far).await;
    near.reaches(&first, "IN_PROGRESS").await;
    assert_eq!(held(&far).await, 1);
    far.done("f1", id(&there), r#"{"output": 1, "cost": {"dollars": 2.0}}"#).await;
    near_total(&near, 2.0).await;
    // Two looks later it is still here.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(held(&far).await, 0);
    assert_eq!(near.api.take("w1").await, second);
}

fn budget(dollars: u32) -> String {
    format!("price_per_hour = 3600.0\nmax_dollars_per_hour = {dollars}.0")
}

async fn near_total(near: &Near, dollars: f64) {
    eventually("the cost is counted", async || {
        near.counts.totals("ep").filter(|totals| (totals.dollars - dollars).abs() < 1e-9).map(|_| ())
    })
    .await;
}

async fn queued(near: &Near) -> u64 {
    near.api.get("health").await.json()["jobs"]["inQueue"].as_u64().unwrap()
}
