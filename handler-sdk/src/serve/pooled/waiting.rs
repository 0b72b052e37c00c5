//! The jobs that wait for a model, and which of them run next. Pure: the time is a parameter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use runpod_handler_protocol::ClosedBy;

/// How many jobs may run together, and how long the oldest one may wait for others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) items: u32,
    pub(crate) cost: u64,
    pub(crate) wait: Duration,
}

/// The jobs that run on a model already, beside which others may start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) items: usize,
    pub(crate) cost: u64,
}

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
    /// Run these items. No more of them run together, for this reason.
    Run(Vec<T>, ClosedBy),
    /// Wait for more items, but not longer than this.
    Wait(Duration),
    /// Nothing waits, or the oldest item waits until one of those that run has ended.
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

    /// Returns an item that was taken out, to a place before all others.
    pub(crate) fn put_back(&mut self, key: K, cost: u64, since: Instant, item: T) {
        self.entries.push_front(Entry { key, cost, since, item });
    }

    /// The items that run next, together and beside the `load`: the oldest item, and the items with the same key in the order of
    /// their arrival, until one does not fit. They wait for more items until there is no room for another, or the oldest has
    /// waited for long enough. No item overtakes an older one that does not fit beside the load.
    pub(crate) fn next(&mut self, now: Instant, bounds: &Bounds, budget: u64, load: Load) -> Next<T> {
        let Some(oldest) = self.entries.front() else { return Next::Idle };
        let room = (bounds.items as usize).saturating_sub(load.items);
        let (mut members, mut cost, mut full) = (Vec::new(), load.cost, None);
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.key == oldest.key) {
            let with = cost.saturating_add(entry.cost);
            let is_alone = load.items == 0 && members.is_empty();
            if members.len() >= room {
                full = Some(ClosedBy::Full);
                break;
            }
            if !is_alone && with > budget {
                full = Some(ClosedBy::Cost);
                break;
            }
            members.push(index);
            cost = with;
        }
        if members.is_empty() {
            return Next::Idle;
        }
        if members.len() >= room {
            full = Some(ClosedBy::Full);
        } else if cost >= budget {
            full = Some(ClosedBy::Cost);
        }
        let waited = now.saturating_duration_since(oldest.since);
        if full.is_none() && waited < bounds.wait {
            return Next::Wait(bounds.wait - waited);
        }
        let closed_by = match full {
            Some(limit) => limit,
            None if !bounds.wait.is_zero() => ClosedBy::WaitOver,
            None if members.len() < self.entries.len() => ClosedBy::Key,
            None => ClosedBy::Idle,
        };
        let mut items = Vec::with_capacity(members.len());
        // From the back, so that the other positions stay valid.
        for index in members.into_iter().rev() {
            items.extend(self.entries.remove(index).map(|entry| entry.item));
        }
        items.reverse();
        Next::Run(items, closed_by)
    }
}

#[cfg(test)]
mod tests;
