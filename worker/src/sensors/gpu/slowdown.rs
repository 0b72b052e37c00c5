//! Decides which GPUs are slowed down. Clocks go up and down all the time, so a reason counts once it was reported in several
//! samples in a row, and until it was absent from as many.

use crate::sensors::limits::SLOWDOWN_SAMPLES;
use runpod_worker_core::{GpuSlowdown, SlowdownReason};

/// The reasons that count, per GPU.
#[derive(Debug, Default)]
pub(super) struct Slowdowns {
    gpus: Vec<[Reason; SlowdownReason::ALL.len()]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reason {
    counts: bool,
    /// Number of the last samples in a row that contradict `counts`.
    contradictions: u32,
}

impl Reason {
    fn note(&mut self, seen: bool) {
        self.contradictions = if seen == self.counts { 0 } else { self.contradictions + 1 };
        if self.contradictions == SLOWDOWN_SAMPLES {
            *self = Self { counts: seen, contradictions: 0 };
        }
    }
}

impl Slowdowns {
    /// Takes one sample and returns which GPUs are slowed down. The power limit counts only without a job: a `busy` card is
    /// expected to reach it.
    pub(super) fn note<'a>(
        &mut self,
        gpus: impl ExactSizeIterator<Item = Option<&'a [SlowdownReason]>>,
        busy: bool,
    ) -> Vec<GpuSlowdown> {
        self.gpus.resize(gpus.len(), Default::default());
        let mut slowdowns = Vec::new();
        for (gpu, (states, seen)) in self.gpus.iter_mut().zip(gpus).enumerate() {
            let mut reasons = Vec::new();
            for (state, reason) in states.iter_mut().zip(SlowdownReason::ALL) {
                let expected = busy && reason == SlowdownReason::SwPowerCap;
                state.note(!expected && seen.is_some_and(|seen| seen.contains(&reason)));
                if state.counts {
                    reasons.push(reason);
                }
            }
            if !reasons.is_empty() {
                slowdowns.push(GpuSlowdown { gpu, reasons });
            }
        }
        slowdowns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SlowdownReason::{HwSlowdown, HwThermal, SwPowerCap};

    /// Whether the only GPU is slowed down after each of these samples.
    fn slowed_down(samples: &[&[SlowdownReason]], busy: bool) -> Vec<bool> {
        let mut slowdowns = Slowdowns::default();
        samples.iter().map(|seen| !slowdowns.note([Some(*seen)].into_iter(), busy).is_empty()).collect()
    }

    #[test]
    fn a_reason_counts_after_three_samples_and_no_more_after_three_without_it() {
        let (hot, cool): (&[_], &[_]) = (&[HwThermal], &[]);
        assert_eq!(slowed_down(&[hot, hot, cool, hot, hot, hot], false), [false, false, false, false, false, true]);
        let samples = [hot, hot, hot, cool, cool, hot, cool, cool, cool];
        assert_eq!(slowed_down(&samples, true), [false, false, true, true, true, true, true, true, false]);
    }

    #[test]
    fn the_power_limit_counts_only_without_a_job() {
        let samples: [&[_]; 4] = [&[SwPowerCap]; 4];
        assert_eq!(slowed_down(&samples, true), [false; 4]);
        assert_eq!(slowed_down(&samples, false), [false, false, true, true]);
    }

    #[test]
    fn gpus_and_reasons_are_independent_and_a_card_without_the_figure_is_not_slowed_down() {
        let mut slowdowns = Slowdowns::default();
        let mut last = Vec::new();
        for sample in 0..3 {
            let second: &[_] = if sample == 0 { &[HwThermal] } else { &[HwThermal, HwSlowdown] };
            last = slowdowns.note([None, Some(second)].into_iter(), false);
        }
        assert_eq!(last, [GpuSlowdown { gpu: 1, reasons: vec![HwThermal] }]);
        assert_eq!(slowdowns.note([].into_iter(), false), []);
    }
}
