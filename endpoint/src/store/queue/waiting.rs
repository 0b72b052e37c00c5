//! The jobs that wait, in the order in which workers get them: first in, first out, and round robin over the shares of the queue.
//!
//! Jobs may name a share, such as the client that they are from. The first waiting job of every share is of one round, the second one
//! of the next round, and so on. A share that joins late begins with the round that is being served, so that nobody waits for what
//! others have queued before. A job without a share is behind all that wait: where nobody takes turns, the order is that of submission.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::store::job::{Position, Record};
use crate::store::request::JobId;

/// Jobs at the front of which one is the oldest of all, at most.
pub(crate) const MAX_FRONT: usize = 1000;

/// Who shares the queue with others.
type Share = Option<Arc<str>>;

/// How far a share is: the round of its last job. Without a share: that of the last job of all.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) low_priority: bool,
    pub(crate) share: Share,
    pub(crate) last: u64,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    jobs: BTreeMap<Position, Entry>,
    /// Those that are requests of batches.
    of_batches: usize,
    /// The shares that have jobs in here, and where. Those of low priority have rounds of their own.
    shares: HashMap<(bool, Arc<str>), BTreeSet<Position>>,
    /// The latest round that a worker has got a job of; with normal and with low priority.
    served: [u64; 2],
    /// The round of the last job of a share, where jobs that are not in here wait too; without a share: that of the last job of all.
    elsewhere: HashMap<(bool, Share), u64>,
}

/// A job that waits.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: JobId,
    pub(super) share: Share,
    /// It is a request of a batch.
    pub(super) is_of_batch: bool,
}

impl Entry {
    pub(super) fn new<P>(record: &Record<P>) -> Self {
        let Record { id, request, .. } = record;
        Self { id: Arc::clone(id), share: request.share.clone(), is_of_batch: request.batch.is_some() }
    }
}

impl Waiting {
    /// The position of a new job behind all that its share has in here.
    pub(super) fn place(&self, low_priority: bool, number: u64, share: &Share) -> Position {
        let elsewhere = self.elsewhere.get(&(low_priority, share.clone())).copied().unwrap_or_default();
        let round = match share {
            None => self.last_round(low_priority).max(elsewhere),
            Some(share) => {
                let last = self.shares.get(&(low_priority, Arc::clone(share))).and_then(BTreeSet::last);
                let last = last.map_or(0, |position| position.round).max(elsewhere);
                last.max(self.served[usize::from(low_priority)]) + 1
            }
        };
        Position { low_priority, round, number }
    }

    fn last_round(&self, low_priority: bool) -> u64 {
        let first = Position { low_priority, round: 0, number: 0 };
        let last = Position { low_priority, round: u64::MAX, number: u64::MAX };
        self.jobs.range(first..=last).next_back().map_or(0, |(position, _)| position.round)
    }

    /// Notes how far a share is, and the latest round that a worker has got a job of, where others queue jobs too.
    pub(super) fn note_turns(&mut self, low_priority: bool, share: Share, last: u64, served: u64) {
        self.elsewhere.insert((low_priority, share), last);
        let known = &mut self.served[usize::from(low_priority)];
        *known = served.max(*known);
    }

    /// How far every share is, here and elsewhere.
    pub(super) fn turns(&self) -> Vec<Turn> {
        let mut last = self.elsewhere.clone();
        let mut note = |low_priority: bool, share: Share, round: u64| {
            let known = last.entry((low_priority, share)).or_default();
            *known = round.max(*known);
        };
        for ((low_priority, share), positions) in &self.shares {
            let round = positions.last().map_or(0, |position| position.round);
            note(*low_priority, Some(Arc::clone(share)), round);
        }
        for low_priority in [false, true] {
            note(low_priority, None, self.last_round(low_priority));
        }
        last.into_iter().map(|((low_priority, share), last)| Turn { low_priority, share, last }).collect()
    }

    /// The latest round that a worker has got a job of; with normal and with low priority.
    pub(super) fn served(&self) -> [u64; 2] {
        self.served
    }

    pub(super) fn insert(&mut self, position: Position, entry: Entry) {
        if let Some(share) = &entry.share {
            self.shares.entry((position.low_priority, Arc::clone(share))).or_default().insert(position);
        }
        self.of_batches += usize::from(entry.is_of_batch);
        self.jobs.insert(position, entry);
    }

    pub(super) fn remove(&mut self, position: &Position) {
        let Some(entry) = self.jobs.remove(position) else { return };
        self.of_batches -= usize::from(entry.is_of_batch);
        let Some(share) = entry.share else { return };
        let key = (position.low_priority, share);
        let Some(turns) = self.shares.get_mut(&key) else { return };
        turns.remove(position);
        if turns.is_empty() {
            self.shares.remove(&key);
        }
    }

    /// The next job for a worker.
    pub(super) fn pop_first(&mut self) -> Option<JobId> {
        let (position, id) = self.jobs.first_key_value().map(|(position, entry)| (*position, Arc::clone(&entry.id)))?;
        self.serve(&position);
        Some(id)
    }

    /// Takes a job out for a worker. Should it come back, it is ahead of what its share has queued since.
    pub(super) fn serve(&mut self, position: &Position) {
        let served = &mut self.served[usize::from(position.low_priority)];
        *served = position.round.max(*served);
        self.remove(position);
    }

    /// Takes all out, in order.
    pub(super) fn take_all(&mut self) -> Vec<(Position, Entry)> {
        std::mem::take(self).jobs.into_iter().collect()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &JobId> {
        self.jobs.values().map(|entry| &entry.id)
    }

    /// Those that are not of low priority.
    pub(super) fn urgent(&self) -> impl Iterator<Item = &JobId> {
        let first_low = Position { low_priority: true, round: 0, number: 0 };
        self.jobs.range(..first_low).map(|(_, entry)| &entry.id)
    }

    /// How many jobs at the front have the oldest one among them.
    pub(super) fn front(&self) -> usize {
        // One more for the jobs without a share.
        if self.shares.is_empty() { 1 } else { (2 * (self.shares.len() + 1)).min(MAX_FRONT) }
    }

    #[cfg(test)]
    pub(super) fn get(&self, position: &Position) -> Option<&JobId> {
        self.jobs.get(position).map(|entry| &entry.id)
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// How many wait that are not requests of batches.
    pub(super) fn without_batches(&self) -> usize {
        self.jobs.len() - self.of_batches
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, share: Share) -> Entry {
        Entry { id: id.into(), share, is_of_batch: id.starts_with('b') }
    }

    /// A queue of jobs that are called after their share and their number.
    #[derive(Default)]
    struct Line(Waiting, u64);

    impl Line {
        fn add(&mut self, shares: &str) {
            for share in shares.chars() {
                self.1 += 1;
                let name = (share != '-').then(|| Arc::from(share.to_string()));
                let position = self.0.place(false, self.1, &name);
                self.0.insert(position, entry(&format!("{share}{}", self.1), name));
            }
        }

        fn take(&mut self, jobs: usize) -> String {
            let taken: Vec<_> = std::iter::from_fn(|| self.0.pop_first()).take(jobs).collect();
            taken.iter().map(|id| &**id).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn shares_take_turns_and_each_keeps_its_order() {
        let mut line = Line::default();
        line.add("aaaabbc");
        assert_eq!(line.take(9), "a1 b5 c7 a2 b6 a3 a4");
    }

    #[test]
    fn who_comes_late_neither_waits_for_the_others_nor_passes_all_of_them() {
        let mut line = Line::default();
        line.add("aaaa");
        assert_eq!(line.take(2), "a1 a2");
        line.add("bb");
        assert_eq!(line.take(9), "a3 b5 a4 b6");
        line.add("ab");
        assert_eq!(line.take(9), "a7 b8");
    }

    #[test]
    fn requests_of_batches_are_counted_apart() {
        let mut line = Line::default();
        line.add("abb-");
        assert_eq!((line.0.len(), line.0.without_batches()), (4, 2));
        line.take(2);
        assert_eq!((line.0.len(), line.0.without_batches()), (2, 1));
        line.take(9);
        assert_eq!(line.0.without_batches(), 0);
    }

    #[test]
    fn without_shares_the_order_is_that_of_submission() {
        let mut line = Line::default();
        line.add("---");
        assert_eq!(line.take(1), "-1");
        line.add("--");
        assert_eq!(line.take(9), "-2 -3 -4 -5");
    }

    #[test]
    fn a_share_that_has_withdrawn_its_jobs_starts_anew() {
        let mut line = Line::default();
        line.add("aaaabb");
        let of_a = |(position, entry): (&Position, &Entry)| entry.id.starts_with('a').then_some(*position);
        for position in line.0.jobs.iter().filter_map(of_a).collect::<Vec<_>>() {
            line.0.remove(&position);
        }
        line.add("a");
        assert_eq!(line.take(9), "b5 a7 b6");
        assert!(line.0.shares.is_empty() && line.0.is_empty());
    }

    #[test]
    fn a_job_that_comes_back_is_ahead_of_what_its_share_has_queued_since() {
        let mut line = Line::default();
        let share: Share = Some(Arc::from("a"));
        let position = line.0.place(false, 0, &share);
        line.add("aab");
        assert_eq!(line.take(1), "a1");
        line.0.insert(position, entry("back", share));
        line.add("a");
        assert_eq!(line.take(9), "back b3 a2 a4");
    }

    #[test]
    fn a_job_without_a_share_is_behind_all_that_wait() {
        let mut line = Line::default();
        line.add("-aab--b");
        assert_eq!(line.take(9), "-1 a2 b4 a3 -5 -6 b7");
    }

    #[test]
    fn jobs_that_wait_elsewhere_have_their_turns_too() {
        let mut line = Line::default();
        line.0.note_turns(false, Some(Arc::from("a")), 7, 4);
        line.0.note_turns(false, None, 8, 4);
        line.add("a-ab");
        assert_eq!(line.take(9), "b4 a1 -2 a3");
        assert_eq!(line.0.served(), [9, 0]);
    }
}
