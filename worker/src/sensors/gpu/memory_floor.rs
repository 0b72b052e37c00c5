//! The least memory in use between jobs over the last minutes. Memory that a job frees again does not raise it; memory that
//! every job leaves behind does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Number of steps in which the window moves on.
const STEPS: u32 = 10;

/// The minimum over a moving window.
#[derive(Debug)]
pub(super) struct MemoryFloor {
    /// How far back it looks.
    window: Duration,
    /// Start and minimum of each step that has one, oldest first.
    steps: VecDeque<(Instant, u64)>,
}

impl MemoryFloor {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, steps: VecDeque::new() }
    }

    /// Notes memory in use between two jobs.
    pub(super) fn note(&mut self, now: Instant, used: u64) {
        match self.steps.back_mut().filter(|(start, _)| now.duration_since(*start) < self.window / STEPS) {
            Some((_, least)) => *least = used.min(*least),
            None => self.steps.push_back((now, used)),
        }
        self.forget(now);
    }

    /// The minimum; `None` when there was no moment between jobs.
    pub(super) fn get(&mut self, now: Instant) -> Option<u64> {
        self.forget(now);
        self.steps.iter().map(|(_, least)| *least).min()
    }

    fn forget(&mut self, now: Instant) {
        while self.steps.front().is_some_and(|(start, _)| now.duration_since(*start) >= self.window) {
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn the_floor_is_the_least_value_in_the_window() {
        let (mut floor, start) = (MemoryFloor::new(minutes(10)), Instant::now());
        assert_eq!(floor.get(start), None);
        for (minute, used) in [(0, 50), (1, 70), (2, 60)] {
            floor.note(start + minutes(minute), used);
        }
        assert_eq!(floor.get(start + minutes(2)), Some(50));
        assert_eq!(floor.get(start + minutes(10)), Some(60), "the 50 are ten minutes old");
        assert_eq!(floor.get(start + minutes(12)), None);
    }

    #[test]
    fn it_holds_one_figure_per_step_however_many_it_is_given() {
        let (mut floor, start) = (MemoryFloor::new(minutes(10)), Instant::now());
        for tenth in 0..36_000 {
            floor.note(start + Duration::from_millis(100) * tenth, 1000 + u64::from(tenth));
        }
        assert!(floor.steps.len() <= 10, "{}", floor.steps.len());
        let now = start + minutes(60);
        assert!(floor.get(now).unwrap() >= 1000 + 50 * 600, "{:?}", floor.get(now));
    }
}
