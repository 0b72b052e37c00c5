//! What a store in a database cannot do yet: the rules that are not for it, and that it refuses what they are about.

use std::time::Duration;

use runpod_endpoint::store::{Limits, Overdue, StoreError};

use crate::support::{EP, Engine, Postgres, has_postgres, job_with, new_job, submit, take_ids};

/// The rules that a store in a database does not keep.
const LACKING: [&str; 1] = ["shares_take_turns"];

/// Whether a rule is not for a store in a database.
pub(crate) fn is_lacking(rule: &str) -> bool {
    LACKING.contains(&rule)
}

#[tokio::test]
async fn what_a_database_cannot_do_is_refused_with_what_to_do_and_leaves_nothing() {
    if !has_postgres() {
        return;
    }
    let store = Postgres::new().open(Limits::default());
    submit(&*store, "a").await;
    let share = job_with("shared", |request| request.share = Some("one".into()));
    let late = Overdue { max: 1, ..Overdue::default() };
    let refused = [
        ("fair_by", store.submit(EP, share).await.err()),
        ("overflow", store.take_overdue(EP, &late).await.err()),
        ("overflow", store.accepted_elsewhere(EP, "a", "far").await.err()),
        ("overflow", store.begun_elsewhere(EP, "a", Duration::ZERO).await.err()),
        ("overflow", store.elsewhere(EP).await.err()),
        ("overflow", store.taken_elsewhere(EP, "a").await.err()),
        ("batches", store.create_batch(EP, "batch".into(), vec![new_job("b")]).await.err()),
        ("batches", store.add_to_batch(EP, "batch", vec![new_job("b")]).await.err()),
        ("batches", store.remove_from_batch(EP, "batch", "b").await.err()),
        ("batches", store.rename_batch(EP, "batch", None).await.err()),
        ("batches", store.finalize_batch(EP, "batch").await.err()),
        ("batches", store.cancel_batch(EP, "batch").await.err()),
        ("batches", store.batch(EP, "batch").await.err()),
        ("batches", store.batches(EP, 0, 9).await.err()),
        ("batches", store.batch_requests(EP, "batch", 0, 9).await.err()),
    ];
    for (what, error) in refused {
        let Some(StoreError::Unsupported(text)) = error else { panic!("{what}: {error:?}") };
        assert!(text.starts_with(what) && text.contains("--database") && text.contains("--data"), "{text}");
    }
    assert_eq!(take_ids(&*store, "w", 9).await, ["a"]);
}
