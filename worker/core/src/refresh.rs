//! Rule: what follows when a job has asked for a fresh worker.
//!
//! The job's result carries `stopPod`. Then either the whole worker exits, or only its handler process is replaced. In the
//! second case the worker stays away from the queue for a while: a queue that honors `stopPod` considers the worker gone,
//! and gives jobs to its name again only after it has held no job and made no poll for some seconds, as with a container that
//! was replaced. Each earlier poll would start that wait anew.

use crate::boundary::{DrainCause, JobId, OnRefresh, ProcessId, RecycleReason, Time};
use crate::states::{Absence, JobState};
use crate::worker::Worker;

impl Worker {
    /// A job has ended, in this process if it ran at all. `requested`: it asked for a fresh worker.
    pub(crate) fn refresh(&mut self, now: Time, process: Option<ProcessId>, requested: bool) {
        if self.policy.refresh_worker || (requested && self.policy.on_refresh == OnRefresh::Exit) {
            if self.lifecycle.is_working() {
                self.begin_drain(now, &DrainCause::Refresh);
            }
        } else if let Some(process) = process.filter(|_| requested) {
            self.prepare_absence(now);
            self.replace_process(now, process, RecycleReason::Refresh);
        }
    }

    /// The queue has accepted the result of a job. If it carried `stopPod`, the queue considers this worker gone.
    pub(crate) fn stop_pod_delivered(&mut self, job: &JobId) {
        let stop_pod = self.jobs.get(job).is_some_and(|job| job.stop_pod && job.state == JobState::Delivering);
        if stop_pod && self.policy.queue_recycles {
            self.poll.absence = Absence::Pending { until: None };
        }
    }

    /// Begins the absence once no job is held, and ends it when its time is over.
    pub(crate) fn update_absence(&mut self, now: Time) {
        match self.poll.absence {
            Absence::Pending { .. } if self.jobs.is_empty() && !self.poll.in_flight => {
                self.poll.absence = Absence::Until(now + self.policy.refresh_absence);
            }
            Absence::Pending { until: Some(until) } | Absence::Until(until) if now >= until => {
                self.poll.absence = Absence::None;
            }
            Absence::None | Absence::Pending { .. } | Absence::Until(_) => {}
        }
    }

    /// When the absence may end.
    pub(crate) fn absence_deadline(&self) -> Option<Time> {
        match self.poll.absence {
            Absence::None => None,
            Absence::Pending { until } => until,
            Absence::Until(until) => Some(until),
        }
    }

    /// A result with `stopPod` is about to be posted.
    fn prepare_absence(&mut self, now: Time) {
        if !self.policy.queue_recycles {
            return;
        }
        // Once the queue has accepted such a result, the worker stays away, whatever happens to this one.
        let until = match self.poll.absence {
            Absence::Pending { until: None } => None,
            _ => Some(now + self.policy.undelivered_grace),
        };
        self.poll.absence = Absence::Pending { until };
    }
}
