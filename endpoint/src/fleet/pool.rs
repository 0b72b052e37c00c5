//! The workers of one endpoint: starts and retires them as the scaler decides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::error::FleetError;
use super::plan::WorkerPlan;
use super::scaler::{Action, Activity, OtherHosts, Reading, ScaleSettings, Scaler};
use super::supervisor::{StopSignals, Supervisor};
use crate::store::{Load, Store, StoreError, Task, WorkerState, WorkerView};

/// How often queue and workers are read.
const READ_INTERVAL: Duration = Duration::from_millis(200);

/// Workers with the same handler for the same endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) plan: WorkerPlan,
    pub(crate) scale: ScaleSettings,
}

/// A supervised worker.
struct Place {
    worker: Arc<str>,
    retire: CancellationToken,
    /// It exits again and again.
    is_failing: Arc<AtomicBool>,
}

type Ended = (u16, Result<(), FleetError>);

struct Running {
    plan: Arc<WorkerPlan>,
    store: Arc<dyn Store>,
    stop: StopSignals,
    places: BTreeMap<u16, Place>,
    tasks: JoinSet<Ended>,
}

impl Pool {
    /// Runs until `stop`, or until a worker cannot run at all.
    pub(crate) async fn run(self, store: Arc<dyn Store>, stop: StopSignals) -> Result<(), FleetError> {
        let mut scaler = Scaler::new(self.scale);
        let mut running =
            Running { plan: Arc::new(self.plan), store, stop, places: BTreeMap::new(), tasks: JoinSet::new() };
        let origin = Instant::now();
        let mut ticks = interval(READ_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outcome = Ok(());
        while !running.stop.soon.is_cancelled() {
            tokio::select! {
                _ = ticks.tick() => {
                    // Without a reading the last decision stands.
                    let Ok(reading) = running.read().await else { continue };
                    let mut actions = scaler.decide(origin.elapsed(), &reading);
                    let adds = |action: &Action| matches!(action, Action::Start(_));
                    if actions.iter().any(adds) && !running.may_add(self.scale.min).await {
                        actions.retain(|action| !adds(action));
                    }
                    for action in actions {
                        running.act(action);
                    }
                }
                Some(ended) = running.tasks.join_next() => {
                    outcome = running.note_end(ended.ok());
                    if outcome.is_err() {
                        running.stop.soon.cancel();
                    }
                }
                () = running.stop.soon.cancelled() => {}
            }
        }
        while let Some(ended) = running.tasks.join_next().await {
            outcome = outcome.and(running.note_end(ended.ok()));
        }
        outcome
    }
}

/// Runs the workers of all pools until `stop`. The first failure of one stops them all.
pub(crate) async fn run_pools(pools: Vec<Pool>, store: Arc<dyn Store>, stop: StopSignals) -> Result<(), FleetError> {
    let workers: usize = pools.iter().map(|pool| usize::from(pool.scale.max)).sum();
    let gpu_sets = pools.first().map_or(0, |pool| pool.plan.gpus.sets());
    if gpu_sets > 0 && workers > gpu_sets {
        tracing::warn!(workers, gpu_sets, "There are more workers than GPU sets: some workers share GPUs.");
    }
    let mut running = JoinSet::new();
    for pool in pools {
        running.spawn(pool.run(Arc::clone(&store), stop.clone()));
    }
    let mut outcome = Ok(());
    while let Some(ended) = running.join_next().await {
        if let Ok(Err(error)) = ended {
            stop.soon.cancel();
            outcome = outcome.and(Err(error));
        }
    }
    outcome
}

fn other_hosts<'a>(workers: impl Iterator<Item = &'a WorkerView>) -> OtherHosts {
    let mut other_hosts = OtherHosts::default();
    for worker in workers {
        let (present, starting) = match worker.state {
            WorkerState::Initializing => (1, 1),
            WorkerState::Idle | WorkerState::Running => (1, 0),
            WorkerState::Throttled
            | WorkerState::Unhealthy
            | WorkerState::Lost
            | WorkerState::Standby
            | WorkerState::Leaving => (0, 0),
        };
        other_hosts.present = other_hosts.present.saturating_add(present);
        other_hosts.starting = other_hosts.starting.saturating_add(starting);
    }
    other_hosts
}

/// What a worker of this pool does, from its state if it is known.
fn activity(known: Option<(WorkerState, u64)>, is_failing: bool) -> Activity {
    match known {
        Some((WorkerState::Running, _)) => Activity::Busy,
        Some((WorkerState::Idle, taken)) => Activity::Idle { taken },
        Some((WorkerState::Unhealthy, _)) => Activity::Out,
        _ if is_failing => Activity::Out,
        _ => Activity::Starting,
    }
}

impl Running {
    async fn load(&self) -> Result<Load, StoreError> {
        match &self.plan.balancer {
            Some(balancer) => Ok(balancer.load()),
            None => self.store.load(&self.plan.endpoint).await,
        }
    }

    async fn read(&self) -> Result<Reading, StoreError> {
        let Load { waiting, oldest, in_progress, background, workers } = self.load().await?;
        let known: HashMap<_, _> = workers.into_iter().map(|worker| (Arc::clone(&worker.id), worker)).collect();
        let activity = |place: &Place| {
            if place.retire.is_cancelled() {
                return Activity::Leaving;
            }
            let is_failing = place.is_failing.load(Ordering::Relaxed);
            activity(known.get(&place.worker).map(|worker| (worker.state, worker.taken)), is_failing)
        };
        let places = self.places.iter().map(|(number, place)| (*number, activity(place))).collect();
        let own: HashSet<_> = self.places.values().map(|place| Arc::clone(&place.worker)).collect();
        let others = known.values().filter(|worker| !own.contains(&worker.id));
        let other_hosts = if self.store.is_shared() { other_hosts(others) } else { OtherHosts::default() };
        Ok(Reading { waiting, oldest, in_progress, background, places, resumed: self.resumed(), other_hosts })
    }

    /// The places of workers that requests wait for.
    fn resumed(&self) -> BTreeSet<u16> {
        let wanted = self.plan.balancer.as_ref().map(|balancer| balancer.resumed()).unwrap_or_default();
        let place = |id: &Arc<str>| id.strip_prefix(&*self.plan.worker_prefix)?.strip_prefix('-')?.parse().ok();
        wanted.iter().filter_map(place).collect()
    }

    /// Whether workers may be added here: up to the least number always, beyond that only where it is this host's turn. The requests
    /// of a load balancer are its own, and so is the decision.
    async fn may_add(&self, min: u16) -> bool {
        let present = self.places.values().filter(|place| !place.retire.is_cancelled()).count();
        present < usize::from(min)
            || self.plan.balancer.is_some()
            || self.store.turn(&self.plan.endpoint, Task::Scaling).await.unwrap_or(false)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(number) => {
                let worker: Arc<str> = self.plan.worker(number).into();
                // Stopping all retires each; retiring one stops no other.
                let retire = self.stop.soon.child_token();
                let stop = StopSignals { soon: retire.clone(), now: self.stop.now.clone() };
                let (plan, store) = (Arc::clone(&self.plan), Arc::clone(&self.store));
                let is_failing = Arc::new(AtomicBool::new(false));
                let place = Place { worker: Arc::clone(&worker), retire, is_failing: Arc::clone(&is_failing) };
                let supervisor = Supervisor { plan, store, number, worker, is_failing, stop };
                self.places.insert(number, place);
                self.tasks.spawn(async move { (number, supervisor.run().await) });
            }
            Action::Retire(number) => {
                if let Some(place) = self.places.get(&number) {
                    tracing::info!(worker = %place.worker, "The worker is idle and stops.");
                    place.retire.cancel();
                }
            }
        }
    }

    fn note_end(&mut self, ended: Option<Ended>) -> Result<(), FleetError> {
        let Some((number, result)) = ended else { return Ok(()) };
        self.places.remove(&number);
        result
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::fleet::gpu_sets::Gpus;
    use crate::fleet::ports::HttpPorts;
    use crate::fleet::process::WorkerCommand;
    use crate::fleet::scaler::ScalerRule;
    use crate::local::Local;
    use crate::store::{Away, MemoryStore, Setup};

    fn pool() -> Pool {
        let plan = WorkerPlan {
            endpoint: "ep".to_owned(),
            worker_prefix: "ep".to_owned(),
            base_url: "http://127.0.0.1:9".to_owned(),
            worker_key: None,
            lease: Duration::from_secs(40),
            command: WorkerCommand { program: "/no/such/worker".into(), args: Vec::new() },
            rebuilds: None,
            http_ports: HttpPorts::default(),
            log_format: runpod_log_line::LogFormat::Text,
            stop_grace: Duration::ZERO,
            gpus: Gpus::default(),
            faults: None,
            local: Local::default(),
            balancer: None,
        };
        let scale = ScaleSettings { min: 1, max: 1, rule: ScalerRule::default(), idle_timeout: Duration::ZERO };
        Pool { plan, scale }
    }

    #[test]
    fn an_unhealthy_worker_and_one_that_waits_for_its_next_start_after_failing_are_out() {
        assert_eq!(activity(Some((WorkerState::Unhealthy, 3)), false), Activity::Out);
        for known in [None, Some((WorkerState::Initializing, 0))] {
            assert_eq!((activity(known, true), activity(known, false)), (Activity::Out, Activity::Starting));
        }
        assert_eq!(activity(Some((WorkerState::Idle, 3)), true), Activity::Idle { taken: 3 });
    }

    #[tokio::test(start_paused = true)]
    async fn workers_are_neither_started_nor_ended_while_the_store_is_away() {
        let stop = StopSignals { soon: CancellationToken::new(), now: CancellationToken::new() };
        let limit = Duration::from_secs(60);
        assert!(timeout(limit, pool().run(Arc::new(Away), stop.clone())).await.is_err(), "a decision was made");
        let known = MemoryStore::new(Setup::default());
        assert!(matches!(timeout(limit, pool().run(Arc::new(known), stop)).await, Ok(Err(FleetError::Spawn { .. }))));
    }
}
