//! A store for tests whose engine is away: every method fails.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    BatchId, BatchRequest, BatchView, Batches, CancelElsewhere, GivenUp, Health, Heartbeat, HistoryPage, HistoryQuery,
    JobDetails, JobElsewhere, JobFilter, JobId, JobRow, JobView, Load, NewJob, Observation, Operations, Outcome,
    Overdue, Page, Payload, RetriedFailed, Seen, Status, Store, StoreError, TakenJob, Webhook, WebhookEnd, WorkerEvent,
    WorkerView,
};

/// Answers every call with [`StoreError::Unavailable`].
pub(crate) struct Away;

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("the engine is away".into()))
}

macro_rules! away {
    ($interface:ident { $($method:ident($($argument:ty),*) -> $answer:ty;)* } $($more:tt)*) => {
        #[async_trait]
        impl $interface for Away {
            $(async fn $method(&self, $(_: $argument),*) -> Result<$answer, StoreError> { unavailable() })*

            $($more)*
        }
    };
}

away! {
    Operations {
        set_paused(&str, bool) -> ();
        failed(&str, usize, usize) -> Page<JobRow>;
        retry_failed(&str) -> RetriedFailed;
        webhook_ended(&str, &str, u64, WebhookEnd) -> ();
        given_up(&str, usize, usize) -> Page<GivenUp>;
        resend_webhook(&str, &str) -> ();
        resend_webhooks(&str) -> Vec<JobId>;
    }
}

away! {
    Batches {
        create_batch(&str, BatchId, Vec<NewJob>) -> BatchView;
        add_to_batch(&str, &str, Vec<NewJob>) -> BatchView;
        remove_from_batch(&str, &str, &str) -> BatchView;
        rename_batch(&str, &str, Option<Arc<str>>) -> BatchView;
        finalize_batch(&str, &str) -> BatchView;
        cancel_batch(&str, &str) -> BatchView;
        batch(&str, &str) -> BatchView;
        batches(&str, usize, usize) -> Page<BatchView>;
        batch_requests(&str, &str, usize, usize) -> Page<BatchRequest>;
    }
}

away! {
    Store {
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
        take_overdue(&str, &Overdue) -> Vec<TakenJob>;
        accepted_elsewhere(&str, &str, &str) -> ();
        begun_elsewhere(&str, &str, Duration) -> ();
        elsewhere(&str) -> Vec<JobElsewhere>;
        taken_elsewhere(&str, &str) -> Option<TakenJob>;
        is_overdue(&str, &Overdue) -> bool;
        cancels_elsewhere(&str) -> Vec<CancelElsewhere>;
        cancelled_elsewhere(&str, &str, &str) -> ();
        worker_event(&str, &str, WorkerEvent) -> ();
        refreshing(&str, &str, Duration) -> bool;
        observe(&str) -> Observation;
        endpoints() -> Vec<String>;
        list(&str, &JobFilter) -> Vec<JobRow>;
        search(&str, &HistoryQuery) -> HistoryPage;
        inspect(&str, &str, Seen, Duration) -> JobDetails;
        workers(&str, usize) -> Vec<WorkerView>;
    }

    fn ready(&self) -> Result<(), StoreError> {
        unavailable()
    }
}
