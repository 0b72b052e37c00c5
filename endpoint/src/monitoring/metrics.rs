//! Every metric of the endpoint.
//!
//! What concerns jobs and workers is read from the store at the moment of the scrape, under the same lock as `/health`, so
//! that the two cannot disagree. Only what the store does not know is counted here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use runpod_http_server::ServerCounts;

use super::collector::{Collected, Requests};
use super::labels::EndpointLabels;
use super::series::Series;
use crate::balancer::Balancer;
use crate::overflow::OverflowCounts;
use crate::store::{Observation, Store, WebhookOutcomes};

/// The sources of all metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    webhooks: WebhookOutcomes,
    /// Shown from the start, even without jobs, so that rates have a first value.
    endpoints: Vec<String>,
    labels: Mutex<EndpointLabels>,
    requests: Mutex<Requests>,
    connections: OnceLock<Vec<Arc<ServerCounts>>>,
    balancers: OnceLock<BTreeMap<String, Arc<Balancer>>>,
    overflow: OnceLock<OverflowCounts>,
}

impl Metrics {
    pub(super) fn new(endpoints: Vec<String>, webhooks: WebhookOutcomes) -> Self {
        Self {
            webhooks,
            endpoints,
            labels: Mutex::default(),
            requests: Mutex::default(),
            connections: OnceLock::new(),
            balancers: OnceLock::new(),
            overflow: OnceLock::new(),
        }
    }

    /// Sets the servers whose connections are shown. The first ones stay.
    pub(super) fn set_connections(&self, connections: Vec<Arc<ServerCounts>>) {
        let _ = self.connections.set(connections);
    }

    /// Sets the load-balancing endpoints. The first ones stay.
    pub(super) fn set_balancers(&self, balancers: BTreeMap<String, Arc<Balancer>>) {
        let _ = self.balancers.set(balancers);
    }

    /// Sets the overflow whose jobs are shown. The first one stays.
    pub(super) fn set_overflow(&self, overflow: OverflowCounts) {
        let _ = self.overflow.set(overflow);
    }

    /// Shows these counters from the start. Those that have counted keep what they have.
    pub(super) fn expect_requests(&self, none: Requests) {
        let mut requests = self.requests.lock();
        none.into_iter().for_each(|(labels, _)| *requests.entry(labels).or_default() += 0);
    }

    pub(super) fn count_request(&self, operation: &'static str, status: &'static str) {
        *self.requests.lock().entry((operation, status)).or_default() += 1;
    }

    /// The OpenMetrics text of everything.
    ///
    /// # Errors
    /// When the text cannot be written, which does not happen with a string.
    pub(super) async fn scrape(&self, store: &dyn Store) -> Result<String, fmt::Error> {
        let mut endpoints = self.endpoints.clone();
        let mut observed = Vec::new();
        if let Ok(known) = store.endpoints().await {
            endpoints.extend(known.into_iter().filter(|id| !self.endpoints.contains(id)));
            for endpoint in endpoints {
                let observation = store.observe(&endpoint).await.ok();
                observed.push((endpoint, observation));
            }
        }
        let webhooks = self.webhooks.by_name();
        let requests = self.requests.lock().clone();
        let mut registry = Registry::default();
        let connections = connections(self.connections.get().map(Vec::as_slice).unwrap_or_default());
        let collected =
            Collected { series: self.series(observed), webhooks, requests, connections, database: store.database() };
        registry.register_collector(Box::new(collected));
        let mut text = String::with_capacity(16 * 1024);
        encode(&mut text, &registry)?;
        Ok(text)
    }

    /// One entry for each label, in the order in which the labels were given. A label whose endpoints could not all be
    /// observed is left out: a gap is true, a zero or a part of the sum is not.
    fn series(&self, observed: Vec<(String, Option<Observation>)>) -> Vec<Series> {
        let mut labels = self.labels.lock();
        let mut series = BTreeMap::<usize, Option<Series>>::new();
        for (endpoint, observation) in observed {
            let index = labels.index(&endpoint);
            let entry = series.entry(index).or_insert_with(|| Some(Series::new(labels.name(index))));
            match (&mut *entry, observation) {
                (Some(series), Some(observation)) => {
                    series.add(&observation);
                    if let Some(totals) = self.overflow.get().and_then(|overflow| overflow.totals(&endpoint)) {
                        series.add_overflow(&totals);
                    }
                    if let Some(balancer) = self.balancers.get().and_then(|balancers| balancers.get(&endpoint)) {
                        series.add_balanced(balancer.figures());
                    }
                }
                (_, None) => *entry = None,
                (None, Some(_)) => {}
            }
        }
        series.into_values().flatten().collect()
    }
}

/// The open connections of all servers, and those that were refused or closed, by reason.
fn connections(servers: &[Arc<ServerCounts>]) -> (usize, Vec<(&'static str, u64)>) {
    let mut refused = ServerCounts::default().refused();
    for counts in servers {
        refused.iter_mut().zip(counts.refused()).for_each(|((_, sum), (_, more))| *sum += more);
    }
    (servers.iter().map(|counts| counts.open()).sum(), refused.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Away;

    fn metrics() -> Metrics {
        Metrics::new(vec!["ep".to_owned()], WebhookOutcomes::default())
    }

    #[tokio::test]
    async fn a_store_that_is_away_leaves_a_gap_and_no_zeros() {
        let text = metrics().scrape(&Away).await.unwrap();
        assert!(text.contains("runpod_endpoint_webhooks"), "{text}");
        assert!(!text.contains("endpoint=\"ep\""), "{text}");
    }

    #[test]
    fn a_label_that_was_observed_in_part_is_left_out() {
        let many = (0..100).map(|number| (format!("ep-{number}"), (number != 99).then(Observation::default)));
        let series = metrics().series(many.collect());
        assert_eq!(series.len(), 64, "the label of the other endpoints lacks one of them");
    }
}
