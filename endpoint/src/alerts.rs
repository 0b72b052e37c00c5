//! Alerts for each endpoint, from the counters that `/health` shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use runpod_alerts::{Counters, EVALUATION_INTERVAL, Readings, Rule, Sender, Watch, Webhook};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::{Observation, Store};

/// Endpoints that are watched: the first ones that the store lists.
const MAX_ENDPOINTS: usize = 64;

/// The alert rules and the receiver of the messages.
#[derive(Debug)]
pub struct Alerts {
    rules: Vec<Rule>,
    webhook: Option<Webhook>,
}

impl Alerts {
    /// Without a webhook, alerts are only logged.
    #[must_use]
    pub fn new(rules: Vec<Rule>, webhook: Option<Webhook>) -> Self {
        Self { rules, webhook }
    }

    /// Watches every endpoint of `store` in the background until `stop` is cancelled. Undelivered messages are dropped then.
    pub fn start(self, store: Arc<dyn Store>, stop: CancellationToken) {
        let sender = self.webhook.map(|webhook| Arc::new(Sender::start(webhook)));
        let rules = self.rules;
        let watch = async move {
            let mut watches: BTreeMap<String, Watch> = BTreeMap::new();
            let mut ticks = interval(EVALUATION_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // What cannot be read is not evaluated: rules keep their state.
                let Ok(endpoints) = store.endpoints().await else { continue };
                watches.retain(|endpoint, _| endpoints.contains(endpoint));
                for endpoint in endpoints {
                    if !watches.contains_key(&endpoint) && watches.len() < MAX_ENDPOINTS {
                        let watch = Watch::new(&endpoint, rules.clone(), sender.clone());
                        watches.insert(endpoint.clone(), watch);
                    }
                    if let (Some(watch), Ok(observation)) = (watches.get_mut(&endpoint), store.observe(&endpoint).await)
                    {
                        watch.observe(&readings(&observation));
                    }
                }
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(watch).await });
    }
}

/// There is no GPU reading: GPUs are visible only to the workers, which have alerts of their own.
fn readings(seen: &Observation) -> Readings {
    let (health, totals) = (&seen.health, &seen.totals);
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Readings {
        waiting: count(seen.waiting()),
        running: count(health.in_progress),
        idle_workers: count(health.workers.idle),
        unhealthy_workers: count(health.workers.unhealthy),
        lost_workers: count(health.workers.lost),
        gpu_utilization: None,
        counters: Counters {
            completed: totals.completed,
            failed: totals.failed.saturating_add(totals.timed_out),
            caller_mistakes: totals.invalid.saturating_add(totals.model_not_found),
            timed_out: totals.execution_timeouts,
        },
    }
}
