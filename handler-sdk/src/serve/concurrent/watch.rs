//! Watches for jobs that block the threads of the runtime, from a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, StopReason, ToSupervisor};
use tokio::runtime::Handle;

use super::polls::{LongPoll, Polls};
use super::run::CLEANUP_TIME;
use crate::error::HandlerError;
use crate::running_job::RunningJobs;
use crate::send_queue::SendQueue;
use crate::serve::loading::SlotSetup;
use crate::serve::reply::Reply;
use crate::text::log;

/// Time between two looks, while there are jobs.
const INTERVAL: Duration = Duration::from_millis(250);
/// A poll that takes this long is logged.
const WARN_AFTER: Duration = Duration::from_secs(1);
/// A poll that takes this long fails its job; a runtime that runs nothing for this long is replaced.
const FAIL_AFTER: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
const ADVICE: &str = "call blocking code in tokio::task::spawn_blocking, or write a Handler";

/// The running watch. It ends when this is dropped.
pub(super) struct Watch {
    polls: Arc<Polls>,
    thread: Option<Thread>,
    ended: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn start(setup: &SlotSetup, runtime: &Handle) -> Self {
        let (polls, ended) = (Arc::<Polls>::default(), Arc::<AtomicBool>::default());
        let mut watcher = Watcher {
            polls: Arc::clone(&polls),
            queue: Arc::clone(&setup.queue),
            jobs: Arc::clone(&setup.jobs),
            canary: Canary::new(runtime.clone()),
            last_look: Instant::now(),
            is_blocked: false,
        };
        let until = Arc::clone(&ended);
        let spawned = thread::Builder::new().name("watch".to_owned()).spawn(move || {
            watcher.run(&until);
        });
        let thread = match spawned {
            Ok(thread) => Some(thread.thread().clone()),
            Err(error) => {
                log(format_args!(
                    "jobs that block their thread will not be noticed, because a thread is missing: {error}"
                ));
                None
            }
        };
        Self { polls, thread, ended }
    }

    pub(super) fn polls(&self) -> &Arc<Polls> {
        &self.polls
    }

    /// New jobs have come.
    pub(super) fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.wake();
    }
}

struct Watcher {
    polls: Arc<Polls>,
    queue: Arc<SendQueue>,
    jobs: Arc<RunningJobs>,
    canary: Canary,
    /// The worker was told that no thread is left.
    is_blocked: bool,
    last_look: Instant,
}

impl Watcher {
    fn run(&mut self, ended: &AtomicBool) {
        while !ended.load(Ordering::Relaxed) {
            // A look that comes late itself shows that the whole process was stopped.
            if self.last_look.elapsed() > WARN_AFTER {
                self.polls.restart();
                self.canary.since = Instant::now();
            }
            self.look();
            self.last_look = Instant::now();
            if self.jobs.len() > 0 {
                thread::park_timeout(INTERVAL);
            } else {
                // Nothing to see until the next jobs come.
                thread::park();
                self.last_look = Instant::now();
            }
        }
    }

    fn look(&mut self) {
        for poll in self.polls.longer_than(WARN_AFTER) {
            self.judge(&poll);
        }
        if self.canary.waiting_for() < FAIL_AFTER {
            self.is_blocked = false;
        } else if !std::mem::replace(&mut self.is_blocked, true) {
            log(format_args!("all threads of this handler are blocked, and it must be replaced: {ADVICE}"));
            // Those that have blocked a thread for almost as long are to blame, too; the other jobs run again.
            for poll in self.polls.longer_than(WARN_AFTER) {
                self.fail(&poll);
            }
            self.queue.push(&ToSupervisor::Blocked, Bytes::new());
        }
    }

    fn judge(&self, poll: &LongPoll) {
        if poll.is_new {
            let (id, age) = (&poll.job.id, poll.age);
            log(format_args!("job {id} has blocked its thread for {age:.1?}: {ADVICE}"));
        }
        let limit = if poll.job.stopped().is_some() { CLEANUP_TIME } else { FAIL_AFTER };
        if poll.age >= limit {
            self.fail(poll);
        }
    }

    /// Answers a job that cannot answer, once. Its future is dropped when it gives its thread back.
    fn fail(&self, poll: &LongPoll) {
        let text = format!("the job has blocked its thread for {:.1?}: {ADVICE}", poll.age);
        let error = match poll.job.stopped() {
            Some(stopped) => HandlerError::new(stopped.kind(), format!("{stopped}; {text}")),
            None => HandlerError::new(ErrorKind::InferenceError, text),
        };
        Reply::failure(&poll.job, error).send(&self.jobs, &self.queue, None);
        poll.job.stop(StopReason::Cancelled);
    }
}

/// A task on the runtime, which shows that a thread is free to run it.
struct Canary {
    runtime: Handle,
    has_run: Arc<AtomicBool>,
    since: Instant,
}

impl Canary {
    fn new(runtime: Handle) -> Self {
        Self { runtime, has_run: Arc::new(AtomicBool::new(true)), since: Instant::now() }
    }

    /// How long the last task has been waiting for a thread; starts the next one if it has run.
    fn waiting_for(&mut self) -> Duration {
        if !self.has_run.swap(false, Ordering::Relaxed) {
            return self.since.elapsed();
        }
        self.since = Instant::now();
        let has_run = Arc::clone(&self.has_run);
        self.runtime.spawn(async move { has_run.store(true, Ordering::Relaxed) });
        Duration::ZERO
    }
}
