//! The jobs that wait, in the order in which workers get them: first in, first out, and round robin over the shares of the queue.
//!
//! Jobs may name a share, such as the client that they are from. The first waiting job of every share is of one round, the second one
//! of the next round, and so on. A share that joins late begins with the round that is being served, so that nobody waits for what
//! others have queued before. Jobs without a share are of one share: with no others, the order is that of submission.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::store::job::{Position, Record};
use crate::store::request::JobId;

/// Jobs at the front of which one is the oldest of all, at most.
const MAX_FRONT: usize = 1000;

/// Who shares the queue with others.
type Share = Option<Arc<str>>;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    jobs: BTreeMap<Position, Entry>,
    /// Those that are requests of batches.
    of_batches: usize,
    /// The shares that have jobs in here. Those of low priority have rounds of their own.
    shares: HashMap<(bool, Share), Turns>,
    /// The latest round that a worker has got a job of; with normal and with low priority.
    served: [u64; 2],
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

/// The waiting jobs of one share.
#[derive(Debug, Default)]
struct Turns {
    jobs: usize,
    /// The round of the last one.
    last: u64,
}

impl Waiting {
    /// The position of a new job behind all that its share has in here.
    pub(super) fn place(&self, low_priority: bool, number: u64, share: &Share) -> Position {
        let last = self.shares.get(&(low_priority, share.clone())).map_or(0, |turns| turns.last);
        Position { low_priority, round: last.max(self.served[usize::from(low_priority)]) + 1, number }
    }

    pub(super) fn insert(&mut self, position: Position, entry: Entry) {
        let turns = self.shares.entry((position.low_priority, entry.share.clone())).or_default();
        turns.jobs += 1;
        turns.last = turns.last.max(position.round);
        self.of_batches += usize::from(entry.is_of_batch);
        self.jobs.insert(position, entry);
    }

    pub(super) fn remove(&mut self, position: &Position) {
        if let Some(entry) = self.jobs.remove(position) {
            self.of_batches -= usize::from(entry.is_of_batch);
            self.one_less(position.low_priority, entry.share);
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

    fn one_less(&mut self, low_priority: bool, share: Share) {
        let key = (low_priority, share);
        let Some(turns) = self.shares.get_mut(&key) else { return };
        turns.jobs -= 1;
        if turns.jobs == 0 {
            self.shares.remove(&key);
        }
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
        if self.shares.len() <= 1 { 1 } else { (2 * self.shares.len()).min(MAX_FRONT) }
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
        let position = line.0.place(false, 0, &None);
        line.add("--b");
        assert_eq!(line.take(1), "-1");
        line.0.insert(position, entry("back", None));
        line.add("-");
        assert_eq!(line.take(9), "back b3 -2 -4");
    }
}
