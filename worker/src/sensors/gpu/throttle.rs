//! From what slows a GPU down at this moment to what is worth telling. Clocks go up and down all the time: a reason counts
//! once it was there several times in a row, and until it was gone as often.

use runpod_worker_core::{GpuSlowdown, SlowdownReason};

/// Samples in a row.
const ENOUGH: u8 = 3;

/// What lasts, per GPU and reason.
#[derive(Debug, Default)]
pub(super) struct Throttling {
    gpus: Vec<[Lasting; SlowdownReason::ALL.len()]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lasting {
    on: bool,
    /// Samples in a row that say otherwise.
    against: u8,
}

impl Lasting {
    fn note(&mut self, on: bool) {
        self.against = if on == self.on { 0 } else { self.against + 1 };
        if self.against == ENOUGH {
            *self = Self { on, against: 0 };
        }
    }
}

impl Throttling {
    /// Notes one sample and tells which GPUs are slowed down. A card that is `busy` and at its power limit is doing what it
    /// was bought for; one that is at its limit without a job is not.
    pub(super) fn note<'a>(
        &mut self,
        gpus: impl ExactSizeIterator<Item = Option<&'a [SlowdownReason]>>,
        busy: bool,
    ) -> Vec<GpuSlowdown> {
        self.gpus.resize(gpus.len(), Default::default());
        let mut throttled = Vec::new();
        for (gpu, (lasting, seen)) in self.gpus.iter_mut().zip(gpus).enumerate() {
            let mut reasons = Vec::new();
            for (lasting, reason) in lasting.iter_mut().zip(SlowdownReason::ALL) {
                let expected = busy && reason == SlowdownReason::SwPowerCap;
                lasting.note(!expected && seen.is_some_and(|seen| seen.contains(&reason)));
                if lasting.on {
                    reasons.push(reason);
                }
            }
            if !reasons.is_empty() {
                throttled.push(GpuSlowdown { gpu, reasons });
            }
        }
        throttled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SlowdownReason::{HwSlowdown, HwThermal, SwPowerCap};

    /// Whether the only GPU is throttled after each of these samples.
    fn told(samples: &[&[SlowdownReason]], busy: bool) -> Vec<bool> {
        let mut throttling = Throttling::default();
        samples.iter().map(|seen| !throttling.note([Some(*seen)].into_iter(), busy).is_empty()).collect()
    }

    #[test]
    fn three_in_a_row_turn_it_on_and_three_turn_it_off() {
        let (hot, cool): (&[_], &[_]) = (&[HwThermal], &[]);
        assert_eq!(told(&[hot, hot, cool, hot, hot, hot], false), [false, false, false, false, false, true]);
        let samples = [hot, hot, hot, cool, cool, hot, cool, cool, cool];
        assert_eq!(told(&samples, true), [false, false, true, true, true, true, true, true, false]);
    }

    #[test]
    fn the_power_limit_counts_only_without_a_job() {
        let samples: [&[_]; 4] = [&[SwPowerCap]; 4];
        assert_eq!(told(&samples, true), [false; 4]);
        assert_eq!(told(&samples, false), [false, false, true, true]);
    }

    #[test]
    fn each_gpu_and_reason_stands_alone_and_a_card_that_does_not_tell_is_not_throttled() {
        let mut throttling = Throttling::default();
        let mut last = Vec::new();
        for sample in 0..3 {
            let second: &[_] = if sample == 0 { &[HwThermal] } else { &[HwThermal, HwSlowdown] };
            last = throttling.note([None, Some(second)].into_iter(), false);
        }
        assert_eq!(last, [GpuSlowdown { gpu: 1, reasons: vec![HwThermal] }]);
        assert_eq!(throttling.note([].into_iter(), false), []);
    }
}
