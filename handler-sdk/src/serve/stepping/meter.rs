//! What a model reports about its steps: their number and how many jobs they advanced, about once a second.

use std::time::{Duration, Instant};

use runpod_handler_protocol::{LimitsNow, StepReport};

/// Time between two reports while jobs run.
const INTERVAL: Duration = Duration::from_secs(1);

/// The steps since the last report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepMeter {
    /// When the first of them began.
    begun: Instant,
    steps: u64,
    advanced: u64,
}

impl StepMeter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { begun: now, steps: 0, advanced: 0 }
    }

    /// A step that began at this time has advanced so many jobs.
    pub(crate) fn stepped(&mut self, began: Instant, jobs: usize) {
        if self.steps == 0 {
            self.begun = began;
        }
        self.steps += 1;
        self.advanced += jobs as u64;
    }

    /// The report, if there is something to report and it is due: after a second, or when no job runs any more.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        model: u32,
        cost: u64,
        is_idle: bool,
        limits: impl FnOnce() -> LimitsNow,
    ) -> Option<StepReport> {
        let time = now.saturating_duration_since(self.begun);
        if self.steps == 0 || time < INTERVAL && !is_idle {
            return None;
        }
        let Self { steps, advanced, .. } = std::mem::replace(self, Self::new(now));
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(StepReport { model, steps, advanced, millis, cost, limits: limits() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_reported_once_a_second_and_when_no_job_runs_any_more() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut meter = StepMeter::new(start);
        let take = |meter: &mut StepMeter, millis, is_idle| {
            meter
                .take(at(millis), 1, 7, is_idle, LimitsNow::default)
                .map(|report| (report.steps, report.advanced, report.millis))
        };
        assert_eq!(take(&mut meter, 5000, true), None, "nothing happened");
        meter.stepped(at(6000), 3);
        meter.stepped(at(6500), 4);
        assert_eq!(take(&mut meter, 6999, false), None);
        assert_eq!(take(&mut meter, 7000, false), Some((2, 7, 1000)), "the time without jobs does not count");
        meter.stepped(at(7000), 1);
        assert_eq!(take(&mut meter, 7010, true), Some((1, 1, 10)));
        assert_eq!(take(&mut meter, 9000, true), None);
    }
}
