//! Which job each thread of the runtime is busy with, and since when.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::running_job::RunningJob;

/// The polls under way, one for each thread that polls futures of jobs.
#[derive(Debug, Default)]
pub(super) struct Polls {
    threads: Mutex<Vec<Arc<Thread>>>,
}

/// What one thread is doing.
#[derive(Debug, Default)]
struct Thread(Mutex<Option<Current>>);

#[derive(Debug)]
struct Current {
    job: Arc<RunningJob>,
    since: Instant,
    /// Its blocking was logged.
    is_known: bool,
}

thread_local! {
    /// This thread's entry. A thread belongs to one runtime.
    static THREAD: RefCell<Option<Arc<Thread>>> = const { RefCell::new(None) };
}

/// Marks a poll as under way while it is alive.
pub(super) struct Polling(Arc<Thread>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.0.lock().take();
    }
}

/// A poll that takes long.
#[derive(Debug)]
pub(super) struct LongPoll {
    pub(super) job: Arc<RunningJob>,
    pub(super) age: Duration,
    /// It was returned for the first time.
    pub(super) is_new: bool,
}

impl Polls {
    /// The calling thread begins to poll the future of a job.
    pub(super) fn enter(&self, job: &Arc<RunningJob>) -> Polling {
        let thread = THREAD.with_borrow_mut(|thread| Arc::clone(thread.get_or_insert_with(|| self.register())));
        *thread.0.lock() = Some(Current { job: Arc::clone(job), since: Instant::now(), is_known: false });
        Polling(thread)
    }

    fn register(&self) -> Arc<Thread> {
        let thread = Arc::<Thread>::default();
        self.threads.lock().push(Arc::clone(&thread));
        thread
    }

    /// Counts the time of all polls from now on.
    pub(super) fn restart(&self) {
        for thread in self.threads.lock().iter() {
            if let Some(current) = thread.0.lock().as_mut() {
                current.since = Instant::now();
            }
        }
    }

    /// The polls that have taken at least this long.
    pub(super) fn longer_than(&self, limit: Duration) -> Vec<LongPoll> {
        let mut threads = self.threads.lock();
        // Threads that have ended have no other owner.
        threads.retain(|thread| Arc::strong_count(thread) > 1);
        let now = Instant::now();
        let mut long = Vec::new();
        for thread in threads.iter() {
            if let Some(current) = thread.0.lock().as_mut() {
                let age = now.saturating_duration_since(current.since);
                if age >= limit {
                    let is_new = !std::mem::replace(&mut current.is_known, true);
                    long.push(LongPoll { job: Arc::clone(&current.job), age, is_new });
                }
            }
        }
        long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_is_seen_while_it_takes_and_new_only_once() {
        let polls = Polls::default();
        let job = Arc::new(RunningJob::new("a".to_owned(), 1, None, Duration::from_secs(60), 1));
        assert!(polls.longer_than(Duration::ZERO).is_empty());
        let polling = polls.enter(&job);
        let seen = polls.longer_than(Duration::ZERO);
        assert_eq!((seen.len(), seen[0].job.id.as_str(), seen[0].is_new), (1, "a", true));
        assert!(!polls.longer_than(Duration::ZERO)[0].is_new);
        assert!(polls.longer_than(Duration::from_secs(60)).is_empty());
        drop(polling);
        assert!(polls.longer_than(Duration::ZERO).is_empty());
    }
}
