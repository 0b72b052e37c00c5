//! What the monitoring routes share.

use std::collections::BTreeMap;
use std::sync::Arc;

use runpod_http_server::ServerCounts;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::balancer::Balancer;
use crate::overflow::OverflowCounts;
use crate::store::{Store, WebhookOutcomes};

/// The sources of the monitoring routes.
#[derive(Clone)]
pub struct Monitoring {
    pub(super) store: Arc<dyn Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) drain: CancellationToken,
}

impl Monitoring {
    /// Monitors `store`. `endpoints` are shown from the start, others from their first job on. Once `drain` is cancelled, the
    /// server is not ready.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        endpoints: Vec<String>,
        webhooks: WebhookOutcomes,
        drain: CancellationToken,
    ) -> Self {
        Self { store, metrics: Arc::new(Metrics::new(endpoints, webhooks)), drain }
    }

    /// Sets the counters of connections that `/metrics` shows, of all servers together.
    #[must_use]
    pub fn with_connections(self, connections: impl IntoIterator<Item = Arc<ServerCounts>>) -> Self {
        self.metrics.set_connections(connections.into_iter().collect());
        self
    }

    /// Sets the load-balancing endpoints whose requests `/metrics` shows.
    #[must_use]
    pub(crate) fn with_balancers(self, balancers: BTreeMap<String, Arc<Balancer>>) -> Self {
        self.metrics.set_balancers(balancers);
        self
    }

    /// Sets the counters of the overflow that `/metrics` shows.
    #[must_use]
    pub fn with_overflow(self, overflow: OverflowCounts) -> Self {
        self.metrics.set_overflow(overflow);
        self
    }
}
