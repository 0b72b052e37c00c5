//! How many jobs an async handler runs at the same time.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use runpod_handler_protocol::{MAX_CONCURRENCY, ToSupervisor};

use crate::error::HandlerError;
use crate::limit_env;
use crate::load_env::LoadEnv;
use crate::send_queue::SendQueue;

/// Environment variable that replaces the number of the program, and limits what it may ask for.
const VARIABLE: &str = "RUNPOD_MAX_CONCURRENCY";

/// How many jobs an [`AsyncHandler`](crate::AsyncHandler) runs at the same time. The handler can change the number while it runs, from any
/// thread, for example to follow the rate limit of a service: the counterpart of `concurrency_modifier` in RunPod's Python SDK.
///
/// Get it from [`AsyncJob::concurrency`](crate::AsyncJob::concurrency), or from [`LoadEnv::concurrency`] for a task of your own.
#[derive(Clone)]
pub struct Concurrency(Arc<Shared>);

struct Shared {
    jobs: Mutex<u32>,
    most: u32,
    queue: Arc<SendQueue>,
}

impl fmt::Debug for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Concurrency").field("jobs", &self.get()).field("most", &self.0.most).finish()
    }
}

impl Concurrency {
    pub(crate) fn new(limits: Limits, queue: Arc<SendQueue>) -> Self {
        Self(Arc::new(Shared { jobs: Mutex::new(limits.at_start), most: limits.most, queue }))
    }

    /// The number in force.
    pub fn get(&self) -> u32 {
        *self.0.jobs.lock()
    }

    /// Runs at most this many jobs at the same time from now on, and returns the number in force: at least 1, and at most 8,192 or
    /// the value of the environment variable `RUNPOD_MAX_CONCURRENCY`. Cheap.
    ///
    /// With a larger number the worker immediately asks for more jobs. With a smaller one the running jobs finish, and the next job comes
    /// when fewer than `jobs` are left.
    pub fn set(&self, jobs: u32) -> u32 {
        let jobs = jobs.clamp(1, self.0.most);
        let mut current = self.0.jobs.lock();
        if *current != jobs {
            *current = jobs;
            // Under the lock, so that the last number sent is the one in force.
            self.0.queue.push(&ToSupervisor::Concurrency { jobs }, Bytes::new());
        }
        jobs
    }
}

impl LoadEnv {
    /// The number of jobs that the handler runs at the same time, to be kept and changed later.
    ///
    /// # Errors
    /// In a handler that is not an [`AsyncHandler`](crate::AsyncHandler), and in its checks.
    pub fn concurrency(&self) -> Result<Concurrency, HandlerError> {
        let shared = self.shared(|| Err("only an AsyncHandler has a concurrency, from its load on".into()))?;
        Ok(Concurrency::clone(&shared))
    }
}

/// How many jobs run at the same time at the start, and how many at most later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) at_start: u32,
    pub(crate) most: u32,
}

impl Limits {
    /// The limits of a program that asks for `jobs`, with those of the environment. A value that is not a number is logged and
    /// ignored.
    pub(crate) fn of(jobs: u32, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = limit_env::number(VARIABLE, variable).map(|jobs| u32::try_from(jobs).unwrap_or(u32::MAX));
        let most = set.unwrap_or(MAX_CONCURRENCY).clamp(1, MAX_CONCURRENCY);
        Self { at_start: set.unwrap_or(jobs).clamp(1, most), most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(jobs: u32, variable: Option<&str>) -> (u32, u32) {
        let limits = Limits::of(jobs, |name| variable.filter(|_| name == VARIABLE).map(str::to_owned));
        (limits.at_start, limits.most)
    }

    #[test]
    fn the_environment_replaces_the_number_of_the_program_and_limits_it() {
        assert_eq!(limits(100, None), (100, MAX_CONCURRENCY));
        assert_eq!(limits(100, Some("20")), (20, 20));
        assert_eq!(limits(100, Some(" 500 ")), (500, 500));
        assert_eq!(limits(100, Some("many")), (100, MAX_CONCURRENCY));
        assert_eq!((limits(0, None).0, limits(u32::MAX, None).0), (1, MAX_CONCURRENCY));
    }

    #[test]
    fn a_number_out_of_bounds_becomes_the_nearest_one() {
        let concurrency = Concurrency::new(Limits { at_start: 4, most: 10 }, Arc::default());
        assert_eq!((concurrency.set(0), concurrency.get()), (1, 1));
        assert_eq!((concurrency.set(99), concurrency.get()), (10, 10));
    }
}
