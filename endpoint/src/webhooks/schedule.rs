//! When a webhook that was not accepted is sent again.

use std::time::Duration;

/// The pauses of the platform, as captured: two more tries.
const PLATFORM: [u64; 2] = [5, 15];

/// Growing pauses, in seconds. The last one repeats.
const GROWING: [u64; 7] = [5, 15, 30, 60, 120, 240, 300];

/// The pauses between the tries to deliver one webhook, and when to give it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pauses: Vec<Duration>,
    /// How long to try. `None`: until the pauses are used up.
    lasts: Option<Duration>,
}

impl Default for Schedule {
    /// An hour: long enough for a receiver that is deployed anew or repaired.
    fn default() -> Self {
        Self::lasting(Duration::from_secs(3600))
    }
}

impl Schedule {
    /// As many tries as fit into this time, with growing pauses.
    #[must_use]
    pub fn lasting(time: Duration) -> Self {
        Self { pauses: GROWING.map(Duration::from_secs).to_vec(), lasts: Some(time) }
    }

    /// Two more tries, as RunPod makes them.
    #[must_use]
    pub fn platform() -> Self {
        Self::of(PLATFORM.map(Duration::from_secs).to_vec())
    }

    /// One more try after each of these pauses.
    #[must_use]
    pub fn of(pauses: Vec<Duration>) -> Self {
        Self { pauses, lasts: None }
    }

    /// The pause after this number of tries, the first of which was so long ago. `None`: the webhook is given up.
    pub(super) fn pause(&self, tries: usize, since_first: Duration) -> Option<Duration> {
        let nth = tries.saturating_sub(1);
        match self.lasts {
            None => self.pauses.get(nth).copied(),
            Some(lasts) => {
                let pause = *self.pauses.get(nth).or(self.pauses.last())?;
                (since_first + pause <= lasts).then_some(pause)
            }
        }
    }

    /// How long a delivery lasts at most, without the time that tries take.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.lasts.unwrap_or_else(|| self.pauses.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_fit_into_the_time() {
        let schedule = Schedule::default();
        let (mut at, mut tries, mut last) = (Duration::ZERO, 1, Duration::ZERO);
        while let Some(pause) = schedule.pause(tries, at) {
            assert!(pause >= last);
            (at, tries, last) = (at + pause, tries + 1, pause);
        }
        let least = Duration::from_secs(3300);
        assert!(at > least && at <= schedule.span(), "{at:?} after {tries} tries");
    }

    #[test]
    fn the_platform_makes_two_more_tries() {
        let schedule = Schedule::platform();
        let pauses: Vec<_> = (1..=3).map(|tries| schedule.pause(tries, Duration::ZERO)).collect();
        assert_eq!(pauses, [Some(Duration::from_secs(5)), Some(Duration::from_secs(15)), None]);
    }
}
