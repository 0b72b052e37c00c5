//! The jobs that wait for a batch, and which of them form the next one. Pure: the time is a parameter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::batch::BatchLimits;

/// Waiting items, oldest first.
#[derive(Debug)]
pub(crate) struct Waiting<K, T> {
    entries: VecDeque<Entry<K, T>>,
}

#[derive(Debug)]
struct Entry<K, T> {
    key: K,
    cost: u64,
    since: Instant,
    item: T,
}

/// What the model does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<T> {
    /// Run these items.
    Run(Vec<T>),
    /// Wait for more items, but not longer than this.
    Wait(Duration),
    /// Nothing waits.
    Idle,
}

impl<K, T> Default for Waiting<K, T> {
    fn default() -> Self {
        Self { entries: VecDeque::new() }
    }
}

impl<K: PartialEq, T> Waiting<K, T> {
    pub(crate) fn push(&mut self, key: K, cost: u64, since: Instant, item: T) {
        self.entries.push_back(Entry { key, cost, since, item });
    }

    /// Takes out the first item for which `is_wanted` returns true.
    pub(crate) fn remove(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.entries.iter().position(|entry| is_wanted(&entry.item))?;
        self.entries.remove(at).map(|entry| entry.item)
    }

    /// Forms the next batch: the oldest item, and the items with the same key in the order of their arrival, until one does not
    /// fit. The batch waits for more items until it is full, or its oldest item has waited for long enough.
    pub(crate) fn next(&mut self, now: Instant, limits: &BatchLimits, budget: u64) -> Next<T> {
        let Some(oldest) = self.entries.front() else { return Next::Idle };
        let (mut members, mut cost, mut full) = (Vec::new(), 0u64, false);
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.key == oldest.key) {
            let with = cost.saturating_add(entry.cost);
            full = !members.is_empty() && with > budget || members.len() >= limits.max_items() as usize;
            if full {
                break;
            }
            members.push(index);
            cost = with;
        }
        full |= members.len() >= limits.max_items() as usize || cost >= budget;
        let waited = now.saturating_duration_since(oldest.since);
        if !full && waited < limits.max_wait() {
            return Next::Wait(limits.max_wait() - waited);
        }
        let mut items = Vec::with_capacity(members.len());
        // From the back, so that the other positions stay valid.
        for index in members.into_iter().rev() {
            items.extend(self.entries.remove(index).map(|entry| entry.item));
        }
        items.reverse();
        Next::Run(items)
    }
}

#[cfg(test)]
mod tests;
