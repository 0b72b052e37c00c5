//! The items that a job streams, until a client reads them.

use std::collections::VecDeque;

use super::payload::Payload;

/// Stream items in one record of the console.
pub const MAX_ITEMS: usize = 500;
/// Bytes of these items.
const MAX_ITEM_BYTES: usize = 4 << 20;

/// A stream as a shared store has it, without its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamLeft {
    /// Number of the first unread item.
    pub(crate) first: u64,
    /// Number of the next item.
    pub(crate) next: u64,
    /// Bytes of the unread items.
    pub(crate) bytes: usize,
}

/// The unread items of one job.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    unread: VecDeque<Payload>,
    bytes: usize,
    /// Number of the first unread item.
    first: u64,
    /// Number of the next item; counts on when items are removed.
    next: u64,
}

impl Stream {
    /// As it was left on disk: the items and their numbers, in order.
    pub(crate) fn restored(items: Vec<(u64, Payload)>) -> Self {
        Self {
            bytes: items.iter().map(|(_, item)| item.get().len()).sum(),
            first: items.first().map_or(0, |(number, _)| *number),
            next: items.last().map_or(0, |(number, _)| number + 1),
            unread: items.into_iter().map(|(_, item)| item).collect(),
        }
    }

    /// As a shared store has it: what it holds in all. The items follow where somebody reads them.
    pub(crate) fn left(StreamLeft { first, next, bytes }: StreamLeft) -> Self {
        Self { unread: VecDeque::new(), bytes, first, next }
    }

    /// Where it stands.
    pub(crate) fn standing(&self) -> StreamLeft {
        StreamLeft { first: self.first, next: self.next, bytes: self.bytes }
    }

    /// The unread items of a stream that was put in without.
    pub(crate) fn load(&mut self, items: Vec<Payload>) {
        self.unread = items.into();
    }

    pub(crate) fn push(&mut self, item: Payload) {
        self.bytes += item.get().len();
        self.next += 1;
        self.unread.push_back(item);
    }

    /// Removes and returns the unread items.
    pub(crate) fn drain(&mut self) -> Vec<Payload> {
        (self.bytes, self.first) = (0, self.next);
        self.unread.drain(..).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// Bytes of the unread items.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of the next item: how many there have been.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The unread items from number `from` on, as many as fit into one record, and the number of the first one.
    pub(crate) fn look(&self, from: u64) -> (u64, Vec<Payload>) {
        let first = from.max(self.first);
        let skipped = usize::try_from(first - self.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |item: &&Payload| {
            let before = bytes;
            bytes += item.get().len();
            before == 0 || bytes <= MAX_ITEM_BYTES
        };
        (first, self.unread.iter().skip(skipped).take(MAX_ITEMS).take_while(fits).cloned().collect())
    }
}
