//! A store for tests whose engine is away: every method fails.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Health, Heartbeat, HistoryPage, HistoryQuery, JobDetails, JobFilter, JobId, JobRow, JobView, Load, NewJob,
    Observation, Outcome, Payload, Seen, Status, Store, StoreError, TakenJob, Webhook, WorkerEvent, WorkerView,
};

/// Answers every call with [`StoreError::Unavailable`].
pub(crate) struct Away;

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("the engine is away".into()))
}

macro_rules! away {
    ($($method:ident($($argument:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for Away {
            $(async fn $method(&self, $(_: $argument),*) -> Result<$answer, StoreError> { unavailable() })*

            fn ready(&self) -> Result<(), StoreError> {
                unavailable()
            }
        }
    };
}

away! {
    submit(&str, NewJob) -> JobView;
    view(&str, &str, Option<Duration>) -> JobView;
    wait_finished(&str, &str, Duration) -> JobView;
    drain(&str, &str, Duration) -> (Status, Vec<Payload>);
    cancel(&str, &str) -> JobView;
    retry(&str, &str) -> JobView;
    purge(&str) -> usize;
    pending(&str, usize) -> Vec<JobView>;
    health(&str) -> Health;
    load(&str) -> Load;
    webhook(&str, &str) -> Option<Webhook>;
    webhook_settled(&str, &str) -> ();
    take(&str, &str, usize, Duration) -> Vec<TakenJob>;
    admit(&str, &str, Option<&str>) -> ();
    hand_back(&str, &str, &[JobId]) -> usize;
    goodbye(&str, &str) -> ();
    return_unsent(&str, &str, &str, u32) -> ();
    progress(&str, &str, &str, Option<Payload>) -> ();
    stream_item(&str, &str, &str, Payload) -> ();
    finish(&str, &str, &str, Outcome) -> ();
    heartbeat(&str, &str, Heartbeat) -> Duration;
    stops(&str, &str, Duration) -> Vec<JobId>;
    worker_event(&str, &str, WorkerEvent) -> ();
    recycled(&str, &str, Duration) -> bool;
    observe(&str) -> Observation;
    endpoints() -> Vec<String>;
    list(&str, &JobFilter) -> Vec<JobRow>;
    search(&str, &HistoryQuery) -> HistoryPage;
    inspect(&str, &str, Seen, Duration) -> JobDetails;
    workers(&str, usize) -> Vec<WorkerView>;
}
