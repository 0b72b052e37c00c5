//! Random sequences of events on whole stores: the rules hold on each, and a file that is closed and opened again at
//! any moment cannot be told from memory that never was.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use runpod_endpoint::store::{BatchState, Ending, JobId, Limits, Outcome, Policy, Status, Store, StoreError};

use crate::support::{EP, Engine, Memory, Postgres, Sqlite, has_postgres, new_job, payload};

const WORKERS: [&str; 2] = ["w0", "w1"];

#[derive(Debug, Clone)]
enum Event {
    /// `share`: of the shares that take turns, or 0 for none.
    Submit {
        low_priority: bool,
        share: usize,
    },
    Take {
        worker: usize,
        max: usize,
    },
    ReturnUndelivered {
        job: usize,
    },
    HandBack {
        worker: usize,
        jobs: Vec<usize>,
    },
    Goodbye {
        worker: usize,
    },
    Finish {
        worker: usize,
        job: usize,
        failed: bool,
    },
    Progress {
        worker: usize,
        job: usize,
    },
    Chunk {
        worker: usize,
        job: usize,
    },
    Cancel {
        job: usize,
    },
    Retry {
        job: usize,
    },
    Drain {
        job: usize,
    },
    Purge,
    SetPaused {
        paused: bool,
    },
    RetryFailed,
    Batch {
        jobs: usize,
    },
    CancelBatch {
        batch: usize,
    },
    Reopen,
}

fn event() -> impl Strategy<Value = Event> {
    let job = || 0..8_usize;
    let worker = || 0..WORKERS.len();
    prop_oneof![
        4 => (any::<bool>(), 0..3_usize).prop_map(|(low_priority, share)| Event::Submit { low_priority, share }),
        4 => (worker(), 1..3_usize).prop_map(|(worker, max)| Event::Take { worker, max }),
        1 => job().prop_map(|job| Event::ReturnUndelivered { job }),
        1 => (worker(), prop::collection::vec(job(), 0..3)).prop_map(|(worker, jobs)| Event::HandBack { worker, jobs }),
        1 => worker().prop_map(|worker| Event::Goodbye { worker }),
        3 => (worker(), job(), any::<bool>()).prop_map(|(worker, job, failed)| Event::Finish { worker, job, failed }),
        1 => (worker(), job()).prop_map(|(worker, job)| Event::Progress { worker, job }),
        2 => (worker(), job()).prop_map(|(worker, job)| Event::Chunk { worker, job }),
        1 => job().prop_map(|job| Event::Cancel { job }),
        2 => job().prop_map(|job| Event::Retry { job }),
        1 => job().prop_map(|job| Event::Drain { job }),
        1 => Just(Event::Purge),
        1 => prop::bool::weighted(0.3).prop_map(|paused| Event::SetPaused { paused }),
        1 => Just(Event::RetryFailed),
        1 => (1..4_usize).prop_map(|jobs| Event::Batch { jobs }),
        1 => (0..3_usize).prop_map(|batch| Event::CancelBatch { batch }),
        2 => Just(Event::Reopen),
    ]
}

/// A job as it looks from outside, without times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    status: Status,
    retries: u32,
    worker: Option<String>,
    output: Option<String>,
    error: Option<String>,
    cost: Option<String>,
}

/// One store and what an observer remembers of it.
struct Observer<E> {
    engine: E,
    reopens: bool,
    /// Jobs have shares. A file gives them anew their turns when it is opened.
    takes_turns: bool,
    store: Arc<dyn Store>,
    jobs: usize,
    /// The jobs of each batch.
    batches: Vec<Range<usize>>,
    /// Who got the job last, and which attempt it was.
    takers: HashMap<usize, (&'static str, u32)>,
    looks: Vec<Look>,
    /// Everything that was seen.
    trace: Vec<String>,
}

fn id(job: usize) -> String {
    format!("job-{job}")
}

impl<E: Engine> Observer<E> {
    fn new(reopens: bool, takes_turns: bool) -> Self {
        let engine = E::new();
        let store = engine.open(Limits::default());
        Self {
            engine,
            reopens,
            takes_turns,
            store,
            jobs: 0,
            batches: Vec::new(),
            takers: HashMap::new(),
            looks: Vec::new(),
            trace: Vec::new(),
        }
    }

    async fn apply(&mut self, step: usize, event: &Event) {
        match event {
            Event::Submit { low_priority, share } => {
                let mut job = new_job(&id(self.jobs));
                job.request.policy = Policy { low_priority: *low_priority, ..Policy::default() };
                if self.takes_turns && *share > 0 {
                    job.request.share = Some(format!("share-{share}").into());
                }
                self.store.submit(EP, job).await.unwrap();
                self.jobs += 1;
            }
            Event::Take { worker, max } => self.take(WORKERS[*worker], *max).await,
            Event::HandBack { worker, jobs } => {
                let ids: Vec<JobId> = jobs.iter().map(|job| id(*job).into()).collect();
                let handed_back = self.store.hand_back(EP, WORKERS[*worker], &ids).await;
                self.trace.push(format!("{handed_back:?}"));
            }
            Event::Goodbye { worker } => self.store.goodbye(EP, WORKERS[*worker]).await.unwrap(),
            Event::ReturnUndelivered { job } => {
                if let Some((taker, attempt)) = self.takers.get(job) {
                    self.store.return_unsent(EP, taker, &id(*job), *attempt).await.unwrap();
                }
            }
            Event::Finish { worker, job, failed } => {
                let error = failed.then(|| format!("error {step}"));
                let output = Some(payload(&step.to_string()));
                let outcome =
                    Outcome { ending: Ending { output, error, cost: Some(payload("1.50")) }, ..Outcome::default() };
                self.store.finish(EP, WORKERS[*worker], &id(*job), outcome).await.unwrap();
            }
            Event::Progress { worker, job } => {
                let output = Some(payload(&format!("\"progress {step}\"")));
                self.store.progress(EP, WORKERS[*worker], &id(*job), output).await.unwrap();
            }
            Event::Chunk { worker, job } => {
                self.store.stream_item(EP, WORKERS[*worker], &id(*job), payload(&step.to_string())).await.unwrap();
            }
            Event::Cancel { job } => {
                let cancelled = self.store.cancel(EP, &id(*job)).await.map(|job| job.status);
                self.trace.push(format!("{cancelled:?}"));
            }
            Event::Retry { job } => {
                let retried = self.store.retry(EP, &id(*job)).await.map(|job| job.status);
                if retried.is_ok() {
                    // Its first end does not count any more.
                    self.looks[*job].status = Status::InQueue;
                }
                self.trace.push(format!("{retried:?}"));
            }
            Event::Drain { job } => {
                let drained = self.store.drain(EP, &id(*job), Duration::ZERO).await;
                let seen = drained.map(|(status, items)| {
                    (status, items.iter().map(|item| item.get().to_owned()).collect::<Vec<_>>())
                });
                self.trace.push(format!("{seen:?}"));
            }
            Event::Purge => {
                let purged = self.store.purge(EP).await;
                self.trace.push(format!("{purged:?}"));
            }
            Event::SetPaused { paused } => self.store.set_paused(EP, *paused).await.unwrap(),
            Event::RetryFailed => {
                let retried = self.store.retry_failed(EP).await.unwrap().retried;
                let cancelled = self.of_cancelled_batches().await;
                let failed = self.looks.iter_mut().enumerate();
                let failed = failed.filter(|(job, look)| {
                    matches!(look.status, Status::Failed | Status::TimedOut) && !cancelled.contains(job)
                });
                // Their first ends do not count any more.
                let failed = failed.map(|(_, look)| look.status = Status::InQueue).count();
                assert_eq!(retried, failed);
            }
            Event::Batch { jobs } => {
                let batch = format!("batch-{}", self.batches.len());
                let new = (self.jobs..self.jobs + jobs).map(|job| new_job(&id(job))).collect();
                if self.store.create_batch(EP, batch.clone().into(), new).await.is_ok() {
                    self.store.finalize_batch(EP, &batch).await.unwrap();
                    self.batches.push(self.jobs..self.jobs + jobs);
                    self.jobs += jobs;
                }
            }
            Event::CancelBatch { batch } => {
                let cancelled = self.store.cancel_batch(EP, &format!("batch-{batch}")).await.map(|batch| batch.state);
                self.trace.push(format!("{cancelled:?}"));
            }
            Event::Reopen if self.reopens => {
                // A file can be opened again only once it is closed.
                self.store = Memory.open(Limits::default());
                self.store = self.engine.open(Limits::default());
            }
            Event::Reopen => {}
        }
        self.look().await;
    }

    /// The jobs that never run again.
    async fn of_cancelled_batches(&self) -> HashSet<usize> {
        let mut jobs = HashSet::new();
        for (number, members) in self.batches.iter().enumerate() {
            let batch = self.store.batch(EP, &format!("batch-{number}")).await.unwrap();
            if matches!(batch.state, BatchState::Cancelling | BatchState::Cancelled) {
                jobs.extend(members.clone());
            }
        }
        jobs
    }

    async fn take(&mut self, worker: &'static str, max: usize) {
        for taken in self.store.take(EP, worker, max, Duration::ZERO).await.unwrap() {
            let job: usize = taken.id.trim_start_matches("job-").parse().unwrap();
            assert_eq!(self.looks[job].status, Status::InQueue, "{job} was given to a second worker");
            assert_eq!(taken.request.input.get(), format!("\"input of job-{job}\""));
            self.takers.insert(job, (worker, taken.attempt));
            self.trace.push(format!("{worker} takes {job} as {}", taken.attempt));
        }
    }

    async fn look(&mut self) {
        let mut looks = Vec::new();
        for job in 0..self.jobs {
            let view = self.store.view(EP, &id(job), None).await.unwrap();
            looks.push(Look {
                status: view.status,
                retries: view.attempt.retries,
                worker: view.attempt.worker.map(|worker| worker.to_string()),
                output: view.ending.output.map(|output| output.get().to_owned()),
                error: view.ending.error,
                cost: view.ending.cost.map(|cost| cost.get().to_owned()),
            });
        }
        for (job, (old, new)) in self.looks.iter().zip(&looks).enumerate() {
            assert!(!old.status.is_terminal() || old == new, "{job} ended twice: {old:?}, then {new:?}");
        }
        let health = self.store.health(EP).await.unwrap();
        let count = |wanted| looks.iter().filter(|look| look.status == wanted).count();
        assert_eq!((health.in_queue, health.in_progress), (count(Status::InQueue), count(Status::InProgress)));
        let batches = self.store.batches(EP, 0, usize::MAX).await.unwrap().entries;
        let batches: Vec<_> = batches.into_iter().map(|batch| (batch.id, batch.state, batch.counts)).collect();
        self.trace.push(format!("{batches:?}, paused: {}", health.paused));
        self.trace.push(format!("{} completed, {} failed, {looks:?}", health.completed, health.failed));
        self.looks = looks;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Every time that it is opened again, another replica goes on.
    #[test]
    fn a_database_cannot_be_told_from_memory(events in prop::collection::vec(event(), 1..40)) {
        if has_postgres() {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut memory, mut database) = (Observer::<Memory>::new(false, true), Observer::<Postgres>::new(true, true));
                for (step, event) in events.iter().enumerate() {
                    memory.apply(step, event).await;
                    database.apply(step, event).await;
                    assert_eq!(memory.trace.last(), database.trace.last());
                }
                assert_eq!(memory.trace, database.trace);
            });
        }
    }

    #[test]
    fn a_file_cannot_be_told_from_memory(events in prop::collection::vec(event(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut memory, mut file) = (Observer::<Memory>::new(false, false), Observer::<Sqlite>::new(true, false));
            for (step, event) in events.iter().enumerate() {
                memory.apply(step, event).await;
                file.apply(step, event).await;
                assert_eq!(memory.trace.last(), file.trace.last());
            }
            assert_eq!(memory.trace, file.trace);
            assert_eq!(file.store.view(EP, "unknown", None).await.unwrap_err(), StoreError::JobNotFound);
        });
    }
}
