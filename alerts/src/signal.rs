//! The values that rules watch, and how each is computed from the readings.

use serde::Deserialize;

/// The state of a program at one moment. All of it is also in its `/health` or `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readings {
    /// Jobs in the queue.
    pub waiting: u64,
    /// Jobs that run.
    pub running: u64,
    /// Workers without a job.
    pub idle_workers: u64,
    /// Unhealthy workers.
    pub unhealthy_workers: u64,
    /// Workers that fell silent without a goodbye.
    pub lost_workers: u64,
    /// Mean utilization of the GPUs, from 0 to 1; `None` if there is no GPU or the figure is unknown.
    pub gpu_utilization: Option<f64>,
    /// Whether the data file or the database cannot be used; `None` for a program that has neither.
    pub data_unavailable: Option<bool>,
    /// Counters; they only grow.
    pub counters: Counters,
}

/// Jobs that have ended since the program started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Jobs that ended with an output.
    pub completed: u64,
    /// Jobs that ended with an error, timeouts included.
    pub failed: u64,
    /// Of the failed ones, those that failed by a mistake of their caller: an invalid input, an unknown model.
    pub caller_mistakes: u64,
    /// Failed because of their deadline.
    pub timed_out: u64,
}

impl Counters {
    /// The increase since `before`; 0 for a counter that was reset.
    fn since(self, before: Self) -> Self {
        Self {
            completed: self.completed.saturating_sub(before.completed),
            failed: self.failed.saturating_sub(before.failed),
            caller_mistakes: self.caller_mistakes.saturating_sub(before.caller_mistakes),
            timed_out: self.timed_out.saturating_sub(before.timed_out),
        }
    }
}

/// The value that a rule watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Jobs in the queue.
    QueueDepth,
    /// Share of the jobs that ended within the window and failed, from 0 to 1. Mistakes of callers are left out, of the failed jobs
    /// and of all jobs: they neither raise the share nor hide the failures of others.
    FailureRate,
    /// Jobs that exceeded their deadline within the window.
    Timeouts,
    /// Jobs that wait while no worker is idle.
    JobsWithoutIdleWorker,
    /// Unhealthy workers.
    UnhealthyWorkers,
    /// Workers that fell silent without a goodbye.
    LostWorkers,
    /// Utilisation of the GPUs, from 0 to 1, while jobs run or wait.
    GpuUtilization,
    /// 1 while the data file or the database cannot be used, else 0.
    DataUnavailable,
}

impl Signal {
    /// All signals.
    pub const ALL: [Self; 8] = [
        Self::QueueDepth,
        Self::FailureRate,
        Self::Timeouts,
        Self::JobsWithoutIdleWorker,
        Self::UnhealthyWorkers,
        Self::LostWorkers,
        Self::GpuUtilization,
        Self::DataUnavailable,
    ];

    /// The word used in rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueDepth => "queue_depth",
            Self::FailureRate => "failure_rate",
            Self::Timeouts => "timeouts",
            Self::JobsWithoutIdleWorker => "jobs_without_idle_worker",
            Self::UnhealthyWorkers => "unhealthy_workers",
            Self::LostWorkers => "lost_workers",
            Self::GpuUtilization => "gpu_utilization",
            Self::DataUnavailable => "data_unavailable",
        }
    }

    /// Its description for people.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::QueueDepth => "jobs waiting",
            Self::FailureRate => "share of valid jobs that failed",
            Self::Timeouts => "jobs that exceeded their deadline",
            Self::JobsWithoutIdleWorker => "jobs waiting while no worker is idle",
            Self::UnhealthyWorkers => "unhealthy workers",
            Self::LostWorkers => "lost workers",
            Self::GpuUtilization => "GPU utilization while there is work",
            Self::DataUnavailable => "data files and databases that cannot be used",
        }
    }

    /// Whether it covers a window of time and not one moment.
    pub fn has_window(self) -> bool {
        matches!(self, Self::FailureRate | Self::Timeouts)
    }

    /// Its value; `before` are the counters at the start of the window. `None` without a GPU, without jobs, or with fewer than
    /// `min_jobs` ended jobs.
    pub fn value(self, now: &Readings, before: Counters, min_jobs: u64) -> Option<f64> {
        let ended = now.counters.since(before);
        match self {
            Self::QueueDepth => Some(now.waiting as f64),
            Self::FailureRate => {
                let failed = ended.failed.saturating_sub(ended.caller_mistakes);
                let jobs = ended.completed.saturating_add(failed);
                (jobs >= min_jobs.max(1)).then(|| failed as f64 / jobs as f64)
            }
            Self::Timeouts => Some(ended.timed_out as f64),
            Self::JobsWithoutIdleWorker => Some(if now.idle_workers == 0 { now.waiting as f64 } else { 0.0 }),
            Self::UnhealthyWorkers => Some(now.unhealthy_workers as f64),
            Self::LostWorkers => Some(now.lost_workers as f64),
            Self::GpuUtilization => now.gpu_utilization.filter(|_| now.waiting + now.running > 0),
            Self::DataUnavailable => now.data_unavailable.map(|is_unavailable| f64::from(u8::from(is_unavailable))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(completed: u64, failed: u64, timed_out: u64) -> Counters {
        Counters { completed, failed, timed_out, ..Counters::default() }
    }

    #[test]
    fn each_signal_has_its_value() {
        let busy = Readings {
            waiting: 7,
            running: 1,
            gpu_utilization: Some(0.5),
            data_unavailable: Some(true),
            counters: counters(80, 20, 3),
            ..Readings::default()
        };
        let none = Counters::default();
        assert_eq!(Signal::QueueDepth.value(&busy, none, 0), Some(7.0));
        assert_eq!(Signal::FailureRate.value(&busy, none, 10), Some(0.2));
        assert_eq!(Signal::Timeouts.value(&busy, counters(0, 0, 1), 0), Some(2.0));
        assert_eq!(Signal::JobsWithoutIdleWorker.value(&busy, none, 0), Some(7.0));
        assert_eq!(Signal::JobsWithoutIdleWorker.value(&Readings { idle_workers: 1, ..busy }, none, 0), Some(0.0));
        assert_eq!(Signal::UnhealthyWorkers.value(&Readings { unhealthy_workers: 2, ..busy }, none, 0), Some(2.0));
        assert_eq!(Signal::LostWorkers.value(&Readings { lost_workers: 3, ..busy }, none, 0), Some(3.0));
        assert_eq!(Signal::GpuUtilization.value(&busy, none, 0), Some(0.5));
        assert_eq!(Signal::DataUnavailable.value(&busy, none, 0), Some(1.0));
        assert_eq!(
            Signal::DataUnavailable.value(&Readings { data_unavailable: Some(false), ..busy }, none, 0),
            Some(0.0)
        );
        assert_eq!(Signal::DataUnavailable.value(&Readings::default(), none, 0), None);
    }

    #[test]
    fn mistakes_of_callers_neither_raise_the_failure_rate_nor_hide_the_failures_of_others() {
        let rate = |completed, failed, caller_mistakes| {
            let counters = Counters { completed, failed, caller_mistakes, timed_out: 0 };
            Signal::FailureRate.value(&Readings { counters, ..Readings::default() }, Counters::default(), 10)
        };
        assert_eq!(rate(0, 15, 15), None, "nothing is known of jobs with a valid input");
        assert_eq!(rate(10, 15, 15), Some(0.0));
        assert_eq!(rate(5, 95, 90), Some(0.5));
    }

    #[test]
    fn a_signal_without_enough_data_has_no_value() {
        let quiet = Readings { gpu_utilization: Some(0.0), counters: counters(1, 1, 0), ..Readings::default() };
        assert_eq!(Signal::GpuUtilization.value(&quiet, Counters::default(), 0), None);
        assert_eq!(Signal::FailureRate.value(&quiet, Counters::default(), 3), None);
        assert_eq!(Signal::FailureRate.value(&quiet, quiet.counters, 0), None);
        assert_eq!(Signal::FailureRate.value(&quiet, counters(9, 9, 9), 0), None, "a counter was reset");
    }

    #[test]
    fn names_are_those_of_the_rules() {
        for signal in Signal::ALL {
            let read: Signal = serde_json::from_value(signal.as_str().into()).unwrap();
            assert_eq!(read, signal);
        }
    }
}
