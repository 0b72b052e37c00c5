//! Rule: what is visible from outside. The state of the worker, the reason for it, and the snapshot.

use std::sync::Arc;

use crate::boundary::{GpuSlowdown, JobCounts, JobId, PollBlocker, PollView, SlotCounts, Snapshot, WorkerState};
use crate::states::Phase;
use crate::worker::Worker;

impl Worker {
    /// The ids of all jobs that are not closed: what the heartbeat lists. The cost grows with their number.
    pub fn held(&self) -> Arc<[JobId]> {
        self.jobs.ids().cloned().collect()
    }

    /// The state of the worker as it is now, with the ids that [`held`](Self::held) returned last.
    pub fn snapshot(&self, held: Arc<[JobId]>) -> Snapshot {
        let state = self.state();
        // While a poll is in flight, a blocker that only delays the *next* poll is not shown. The time is that of the last event.
        let blocker = self.poll_blocker(self.accounted_until);
        let blocked_by = blocker.filter(|blocker| !self.poll.in_flight || !blocker.only_delays());
        Snapshot {
            state,
            reason: self.reason(state, blocked_by),
            serving: self.is_serving(),
            jobs: self.job_counts(),
            failures: self.failures.clone(),
            slots: self.slot_counts(),
            poll: PollView { in_flight: self.poll.in_flight, blocked_by, last: self.poll.last },
            processes: self.processes.iter().map(|process| process.view(self.batching_view(process))).collect(),
            held,
            manifest: self.manifest.clone(),
            versions: Arc::clone(&self.versions),
            gpu_time: self.gpu_time,
            price: self.price(),
        }
    }

    /// Whether at least one process can run jobs.
    pub(crate) fn is_serving(&self) -> bool {
        self.processes.iter().any(|process| process.phase == Phase::Serving)
    }

    fn state(&self) -> WorkerState {
        if self.lifecycle.unhealthy_reason().is_some() {
            WorkerState::Unhealthy
        } else if !self.lifecycle.is_working() {
            WorkerState::Draining
        } else if !self.jobs.all_decided() {
            WorkerState::Running
        } else if !self.is_serving() {
            WorkerState::Initializing
        } else if self.poll.is_rate_limited() || !self.gpu_slowdowns.is_empty() {
            WorkerState::Throttled
        } else if self.poll.begun {
            WorkerState::Idle
        } else {
            WorkerState::Ready
        }
    }

    /// One sentence, from the most to the least important: why the worker is unhealthy or ends, why it asks for no jobs, and
    /// which GPUs are slowed down. A worker that is only busy needs no reason, because its slots show it.
    fn reason(&self, state: WorkerState, blocked_by: Option<PollBlocker>) -> Option<String> {
        if let Some(reason) = self.lifecycle.unhealthy_reason() {
            return Some(reason.to_owned());
        }
        let blocker = match blocked_by {
            Some(PollBlocker::NotServing) => self.trouble.clone().or_else(|| Some(PollBlocker::NotServing.to_string())),
            Some(PollBlocker::QueueUnavailable) => {
                self.poll.failure.clone().or_else(|| Some(PollBlocker::QueueUnavailable.to_string()))
            }
            Some(PollBlocker::DeliveryBehind | PollBlocker::NoFreeSlot) => None,
            Some(blocker) => Some(blocker.to_string()),
            // The queue's last answer was 429, and the next one is awaited.
            None if state == WorkerState::Throttled && self.poll.is_rate_limited() => {
                Some(PollBlocker::RateLimited.to_string())
            }
            None => None,
        };
        let slowdowns = self
            .gpu_slowdowns
            .iter()
            .map(GpuSlowdown::to_string)
            .filter(|_| self.is_serving() && self.lifecycle.is_working());
        let reasons: Vec<String> = blocker.into_iter().chain(slowdowns).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn job_counts(&self) -> JobCounts {
        let totals = self.jobs.totals();
        JobCounts {
            in_queue: totals.queued,
            in_progress: totals.in_slots + totals.undecided,
            delivering: totals.delivering,
            ..self.counts
        }
    }

    fn slot_counts(&self) -> SlotCounts {
        self.processes.iter().map(|process| process.slots.counts()).fold(SlotCounts::default(), |sum, counts| {
            SlotCounts {
                ready: sum.ready + counts.ready,
                busy: sum.busy + counts.busy,
                lingering: sum.lingering + counts.lingering,
                loading: sum.loading + counts.loading,
                absent: sum.absent + counts.absent,
            }
        })
    }
}
