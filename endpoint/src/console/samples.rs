//! The counters of the last five minutes, one sample a second, for the charts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::{Health, Store};

const PERIOD: Duration = Duration::from_secs(1);

/// Samples kept: five minutes.
const KEPT: usize = 300;

/// Endpoints that are sampled: the first ones in the order of their ids.
const MAX_ENDPOINTS: usize = 100;

/// The counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: SystemTime,
    pub(super) health: Health,
}

/// The samples of all endpoints.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<Mutex<BTreeMap<String, VecDeque<Sample>>>>);

impl Samples {
    /// Samples the store until `stop`.
    pub async fn collect(self, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            // A sample that cannot be taken is missing from the charts.
            let Ok(endpoints) = store.endpoints().await else { continue };
            self.0.lock().retain(|endpoint, _| endpoints.contains(endpoint));
            for endpoint in endpoints.into_iter().take(MAX_ENDPOINTS) {
                if let Ok(health) = store.health(&endpoint).await {
                    self.add(endpoint, Sample { at: SystemTime::now(), health });
                }
            }
        }
    }

    fn add(&self, endpoint: String, sample: Sample) {
        let mut endpoints = self.0.lock();
        let samples = endpoints.entry(endpoint).or_default();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The samples of one endpoint, oldest first.
    pub(super) fn of(&self, endpoint: &str) -> Vec<Sample> {
        self.0.lock().get(endpoint).map(|samples| samples.iter().copied().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_sample_makes_room() {
        let samples = Samples::default();
        for completed in 0..KEPT as u64 + 5 {
            let health = Health { completed, ..Health::default() };
            samples.add("ep".to_owned(), Sample { at: SystemTime::now(), health });
        }
        let kept = samples.of("ep");
        assert_eq!((kept.len(), kept[0].health.completed), (KEPT, 5));
        assert!(samples.of("other").is_empty());
    }
}
