//! What is counted at one endpoint, where it happens.

use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Timestamp;
use super::ending::CallerMistake;
use super::model::Model;
use super::status::Status;

/// The `workers` half of `/health`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Available.
    pub idle: usize,
    /// Started, has not asked for a job yet.
    pub initializing: usize,
    /// Holding at least one job.
    pub running: usize,
    /// Cannot be started for lack of room on this machine.
    pub throttled: usize,
    /// Reported a failed fitness check, or crashing again and again.
    pub unhealthy: usize,
    /// Fell silent without a goodbye. Not part of RunPod's document.
    pub lost: usize,
}

/// The `/health` counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Jobs completed since the endpoint was created.
    pub completed: u64,
    /// Jobs failed since the endpoint was created.
    pub failed: u64,
    /// Jobs held by workers, those that wait at another endpoint left out.
    pub in_progress: usize,
    /// Jobs waiting, here or at another endpoint.
    pub in_queue: usize,
    /// Of these, jobs that wait at another endpoint. Not part of RunPod's document.
    pub elsewhere: usize,
    /// Retries of lost jobs since the endpoint was created.
    pub retried: u64,
    /// Whether the endpoint gives out no jobs until it is resumed. Not part of RunPod's document.
    pub paused: bool,
    /// Workers by what they do.
    pub workers: WorkerCounts,
}

/// Upper bounds of the buckets of a [`Distribution`], in seconds: jobs take from milliseconds to a day, and wait for up to a week.
pub const BUCKETS: [f64; 22] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0,
    7200.0, 14_400.0, 86_400.0, 604_800.0,
];

/// Times, counted in buckets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The last one is for times beyond all bounds.
    counts: [u64; BUCKETS.len() + 1],
    sum: Duration,
}

impl Distribution {
    pub(crate) fn observe(&mut self, time: Duration) {
        let bucket = BUCKETS.partition_point(|bound| *bound < time.as_secs_f64());
        self.counts[bucket] += 1;
        self.sum += time;
    }

    /// Each upper bound with the number of times above the bound before it. The last bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        BUCKETS.into_iter().chain([f64::INFINITY]).zip(self.counts)
    }

    /// How many times were observed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All times together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

impl AddAssign for Distribution {
    fn add_assign(&mut self, other: Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum += other.sum;
    }
}

/// Counters that only grow. Unlike the ones of `/health` they start at zero with the program, with a data file too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Submissions, `/retry` included.
    pub in_queue: u64,
    /// Times that a worker took a job.
    pub in_progress: u64,
    /// Jobs that ended with a result.
    pub completed: u64,
    /// Jobs that ended with an error.
    pub failed: u64,
    /// Of these, jobs with an input that was not valid.
    pub invalid: u64,
    /// Of these, jobs for a model that the handler does not have.
    pub model_not_found: u64,
    /// Jobs that exceeded their execution timeout, where they are reported as `TIMED_OUT`.
    pub timed_out: u64,
    /// Jobs that exceeded their execution timeout, whatever state they are reported in.
    pub execution_timeouts: u64,
    /// Jobs that clients cancelled.
    pub cancelled: u64,
    /// Jobs whose `ttl` was over before they ended.
    pub expired: u64,
    /// Retries of lost jobs.
    pub retried: u64,
    /// Unfinished jobs that workers gave back. They cost no retry.
    pub handed_back: u64,
    /// Second processes noticed with the id of a running worker.
    pub duplicate_workers: u64,
    /// From submission to the start of the first attempt, of all jobs but the requests of batches.
    pub delay: Distribution,
    /// Length of the last attempt of each job that ended.
    pub execution: Distribution,
}

impl Totals {
    /// Counts the end of a job: in its state, or as expired.
    pub(crate) fn ended(&mut self, status: Status, execution: Option<Duration>, expired: bool) {
        match status {
            _ if expired => self.expired += 1,
            Status::Completed => self.completed += 1,
            Status::Failed => self.failed += 1,
            Status::TimedOut => self.timed_out += 1,
            Status::Cancelled => self.cancelled += 1,
            Status::InQueue | Status::InProgress => {}
        }
        if let Some(execution) = execution {
            self.execution.observe(execution);
        }
    }

    /// The ends among them.
    pub(crate) fn ends(&self) -> Ended {
        Ended {
            completed: self.completed,
            failed: self.failed.saturating_add(self.timed_out),
            mistakes: self.invalid.saturating_add(self.model_not_found),
            timeouts: self.execution_timeouts,
        }
    }

    pub(crate) fn mistaken(&mut self, mistake: Option<CallerMistake>) {
        match mistake {
            Some(CallerMistake::Validation) => self.invalid += 1,
            Some(CallerMistake::ModelNotFound) => self.model_not_found += 1,
            None => {}
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.in_queue += other.in_queue;
        self.in_progress += other.in_progress;
        self.completed += other.completed;
        self.failed += other.failed;
        self.invalid += other.invalid;
        self.model_not_found += other.model_not_found;
        self.timed_out += other.timed_out;
        self.execution_timeouts += other.execution_timeouts;
        self.cancelled += other.cancelled;
        self.expired += other.expired;
        self.retried += other.retried;
        self.handed_back += other.handed_back;
        self.duplicate_workers += other.duplicate_workers;
        self.delay += other.delay;
        self.execution += other.execution;
    }
}

/// What an endpoint knows of the database that it shares with others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatabaseFigures {
    /// It answers.
    pub is_up: bool,
    /// How long the latest question for its time took.
    pub latency: Duration,
    /// Endpoints that use it, this one included.
    pub replicas: usize,
    /// Rows of jobs that are no longer visible and not vacuumed yet, as the server estimates them.
    pub dead_rows: usize,
    /// Transactions of this endpoint on jobs, and how long they took together, the wait for each commit included.
    pub transactions: u64,
    /// See [`transactions`](Self::transactions).
    pub transaction_time: Duration,
    /// Connections that the server has open, for all its databases, and how many it allows.
    pub connections: usize,
    /// See [`connections`](Self::connections).
    pub max_connections: usize,
    /// Standbys that follow the server.
    pub standbys: usize,
}

/// Jobs that have ended, wherever of the programs that share the queue that was counted. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// With a result.
    pub completed: u64,
    /// With an error, timeouts included.
    pub failed: u64,
    /// Of these, by a mistake of their caller.
    pub mistakes: u64,
    /// Because of their execution timeout.
    pub timeouts: u64,
}

/// The requests of batches that have not ended. They wait by design: until no other job does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchRequests {
    /// Wait for a worker. They are among the jobs that `/health` shows as waiting.
    pub waiting: usize,
    /// Held by workers, or waiting to be retried.
    pub in_progress: usize,
}

/// The totals of one endpoint and what `/health` shows at the same moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// The counters of `/health`.
    pub health: Health,
    /// The counters since the start of the program.
    pub totals: Totals,
    /// What alerts are about.
    pub ended: Ended,
    /// How many of its jobs are requests of batches.
    pub batch_requests: BatchRequests,
    /// How long the first job that is not of low priority has waited.
    pub oldest_wait: Option<Timestamp>,
    /// What runs the jobs; `None` before a worker has said it.
    pub model: Option<Arc<Model>>,
}

impl Observation {
    /// The jobs that wait, without those that wait by design.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.health.in_queue.saturating_sub(self.batch_requests.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_on_a_bound_belongs_to_the_bucket_below() {
        let mut times = Distribution::default();
        for millis in [10, 11, 700_000_000] {
            times.observe(Duration::from_millis(millis));
        }
        let filled: Vec<_> = times.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.01, 1), (0.05, 1), (f64::INFINITY, 1)]);
        assert_eq!((times.count(), times.sum()), (3, Duration::from_millis(700_000_021)));
    }
}
