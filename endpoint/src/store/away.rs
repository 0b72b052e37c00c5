//! A store for tests whose engine is away: every method fails.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    BatchId, BatchRequest, BatchView, Batches, GivenUp, Health, Heartbeat, HistoryPage, HistoryQuery, JobDetails,
    JobElsewhere, JobFilter, JobId, JobRow, JobView, Load, NewJob, Observation, Operations, Outcome, Overdue, Page,
    Payload, Seen, Status, Store, StoreError, TakenJob, Webhook, WebhookEnd, WorkerEvent, WorkerView,
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
    BatchId, BatchRequest, BatchView, Batches, GivenUp, Health, Heartbeat, HistoryPage, HistoryQuery, JobDetails,
    JobElsewhere, JobFilter, JobId, JobRow, JobView, Load, NewJob, Observation, Operations, Outcome, Overdue, Page,
    Payload, Seen, Status, Store, StoreError, TakenJob, Webhook, WebhookEnd, WorkerEvent, WorkerView,
}
