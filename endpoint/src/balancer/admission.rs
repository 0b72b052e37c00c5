//! Whether new requests are accepted: not while the endpoint is paused, and not once this program shuts down.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::limits::PAUSE_INTERVAL;
use super::refusal::Refusal;
use crate::store::Store;

/// The admission to one endpoint.
#[derive(Clone)]
pub(super) struct Admission {
    store: Arc<dyn Store>,
    endpoint: Arc<str>,
    drain: CancellationToken,
    /// Whether the endpoint is paused, as far as is known.
    paused: watch::Sender<bool>,
}

impl Admission {
    /// Whether the endpoint is paused is read from the store until `shutdown`. From `drain` on, nothing is accepted.
    pub(super) fn start(
        store: &Arc<dyn Store>,
        endpoint: &str,
        drain: &CancellationToken,
        shutdown: &CancellationToken,
    ) -> Self {
        let (store, endpoint) = (Arc::clone(store), Arc::from(endpoint));
        let admission = Self { store, endpoint, drain: drain.clone(), paused: watch::Sender::new(false) };
        let (watching, shutdown) = (admission.clone(), shutdown.clone());
        tokio::spawn(async move { shutdown.run_until_cancelled(watching.watch()).await });
        admission
    }

    /// Requests that wait for a worker must notice too.
    async fn watch(&self) {
        let mut ticks = interval(PAUSE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// Reads whether the endpoint is paused. While the store is away, what is known stands.
    async fn look(&self) {
        if let Ok(health) = self.store.health(&self.endpoint).await {
            self.paused.send_if_modified(|paused| std::mem::replace(paused, health.paused) != health.paused);
        }
    }

    /// Refuses a request that is not to be accepted now.
    pub(super) async fn check(&self) -> Result<(), Refusal> {
        // A shared store is a question to a database, which no request is to wait for.
        if !self.store.is_shared() {
            self.look().await;
        }
        match (self.drain.is_cancelled(), *self.paused.borrow()) {
            (true, _) => Err(Refusal::ShuttingDown),
            (false, true) => Err(Refusal::Paused),
            (false, false) => Ok(()),
        }
    }

    /// Waits until requests that have no worker yet are to be refused.
    pub(super) async fn closed(&self) -> Refusal {
        let mut paused = self.paused.subscribe();
        tokio::select! {
            () = self.drain.cancelled() => Refusal::ShuttingDown,
            // It ends with a value only: the sender is part of this.
            _ = paused.wait_for(|paused| *paused) => Refusal::Paused,
        }
    }
}
