//! Alerts for each endpoint, from the counters that `/health` shows, and one of this program: that it cannot use its data.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use runpod_alerts::{Counters, EVALUATION_INTERVAL, Message, Readings, Rule, Sender, Signal, Watch, Webhook};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::{Observation, Store, Task};

/// Endpoints that are watched: the first ones that the store lists.
const MAX_ENDPOINTS: usize = 64;

/// Between two looks whose turn it is to post, when there is nothing to post.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);

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
        let watching = Watching::new(self, store).run();
        tokio::spawn(async move { stop.run_until_cancelled(watching).await });
    }
}

struct Watching {
    store: Arc<dyn Store>,
    /// The rules about queues.
    rules: Vec<Rule>,
    queues: BTreeMap<String, Watch>,
    /// Whether this program can use its data. No other one can tell.
    own: Watch,
    sender: Option<Sender>,
    /// Messages about queues, of which every program that shares them makes the same: one of them posts. They are kept until the turn
    /// of one that is gone would be over.
    waiting: VecDeque<(Instant, Message)>,
    looked: Option<Instant>,
}

impl Watching {
    fn new(alerts: Alerts, store: Arc<dyn Store>) -> Self {
        let (own, rules) = alerts.rules.into_iter().partition(|rule: &Rule| rule.signal == Signal::DataUnavailable);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            store,
            rules,
            queues: BTreeMap::new(),
            own: Watch::new(&format!("runpod-endpoint on {host}"), own),
            sender: alerts.webhook.map(Sender::start),
            waiting: VecDeque::new(),
            looked: None,
        }
    }

    async fn run(mut self) {
        let mut ticks = interval(EVALUATION_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let data_unavailable = Some(self.store.ready().is_err());
            for message in self.own.observe(&Readings { data_unavailable, ..Readings::default() }) {
                self.send(message);
            }
            self.watch_queues().await;
            self.post().await;
        }
    }

    async fn watch_queues(&mut self) {
        // What cannot be read is not evaluated: rules keep their state.
        let Ok(endpoints) = self.store.endpoints().await else { return };
        self.queues.retain(|endpoint, _| endpoints.contains(endpoint));
        for endpoint in endpoints {
            if !self.queues.contains_key(&endpoint) && self.queues.len() < MAX_ENDPOINTS {
                self.queues.insert(endpoint.clone(), Watch::new(&endpoint, self.rules.clone()));
            }
            if let (Some(watch), Ok(observation)) =
                (self.queues.get_mut(&endpoint), self.store.observe(&endpoint).await)
            {
                let now = Instant::now();
                self.waiting.extend(watch.observe(&readings(&observation)).into_iter().map(|message| (now, message)));
            }
        }
    }

    /// Posts what there is, if it is this program's turn.
    async fn post(&mut self) {
        if self.sender.is_none() {
            return self.waiting.clear();
        }
        let now = Instant::now();
        if self.waiting.is_empty() && self.looked.is_some_and(|looked| now - looked < LOOK_INTERVAL) {
            return;
        }
        self.looked = Some(now);
        // Of no endpoint: one program posts for all of them.
        if self.store.turn("", Task::Alerts).await == Ok(true) {
            while let Some((_, message)) = self.waiting.pop_front() {
                self.send(message);
            }
        } else {
            let limit = Task::Alerts.lasts() + LOOK_INTERVAL;
            self.waiting.retain(|(since, _)| now - *since <= limit);
        }
    }

    fn send(&self, message: Message) {
        if let Some(sender) = &self.sender {
            sender.send(message);
        }
    }
}

/// There is no GPU reading: GPUs are visible only to the workers, which have alerts of their own.
fn readings(seen: &Observation) -> Readings {
    let (health, ended) = (&seen.health, seen.ended);
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Readings {
        waiting: count(seen.waiting()),
        running: count(health.in_progress),
        idle_workers: count(health.workers.idle),
        unhealthy_workers: count(health.workers.unhealthy),
        lost_workers: count(health.workers.lost),
        gpu_utilization: None,
        data_unavailable: None,
        counters: Counters {
            completed: ended.completed,
            failed: ended.failed,
            caller_mistakes: ended.mistakes,
            timed_out: ended.timeouts,
        },
    }
}
