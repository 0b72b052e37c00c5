//! Where a look for jobs begins. Rows of jobs that were taken stay in the index until they are vacuumed, and while another program holds
//! an old snapshot that may take long; a look that begins at the first place reads all of them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::job::Position;

/// Before every place.
const START: Position = Position { low_priority: false, round: 0, number: 0 };

/// A place may be committed this much later than a higher one: longer than a unit of work may take.
const TRAIL: Duration = Duration::from_secs(20);

/// Without a newer look, jobs may have gone back to lower places at other replicas.
const STALE: Duration = Duration::from_secs(3);

/// The first waiting places of the last seconds. No job waits below the lowest of them.
#[derive(Debug, Default)]
pub(super) struct Floor(VecDeque<(Instant, Position)>);

impl Floor {
    /// Where to begin now.
    pub(super) fn at(&self, now: Instant) -> Position {
        let (Some((oldest, _)), Some((newest, _))) = (self.0.front(), self.0.back()) else { return START };
        if now.duration_since(*oldest) < TRAIL || now.duration_since(*newest) > STALE {
            return START;
        }
        self.0.iter().map(|(_, first)| *first).min().unwrap_or(START)
    }

    /// Notes the first place at which a job waited in a look that began at the start.
    pub(super) fn note(&mut self, now: Instant, first: Position) {
        self.0.push_back((now, first));
        while self.0.get(1).is_some_and(|(second, _)| now.duration_since(*second) >= TRAIL) {
            self.0.pop_front();
        }
    }

    /// Notes that a job waits here from now on.
    pub(super) fn lower(&mut self, now: Instant, place: Position) {
        if place < self.at(now) {
            self.0.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64) -> Position {
        Position { number, ..START }
    }

    #[test]
    fn it_trails_and_gives_way_to_a_job_that_goes_back() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut floor = Floor::default();
        for second in 0..=40 {
            floor.note(at(second), place(100 + second));
            let expected = if second < 20 { START } else { place(100 + second - 20) };
            assert_eq!(floor.at(at(second)), expected, "after {second} s");
        }
        floor.lower(at(40), place(500));
        assert_eq!(floor.at(at(40)), place(120), "a job behind it changes nothing");
        floor.lower(at(40), place(7));
        assert_eq!(floor.at(at(40)), START);
        for second in 41..=70 {
            floor.note(at(second), place(200));
        }
        assert_eq!(floor.at(at(73)), place(200));
        assert_eq!(floor.at(at(74)), START, "nobody has looked for too long");
    }
}
