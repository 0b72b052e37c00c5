//! The open connections.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::counts::{Refusal, ServerCounts};
use crate::limits::ServerLimits;
use crate::phase::{Activity, Expiry};

/// Every open connection of one server.
#[derive(Debug)]
pub(crate) struct Table {
    limits: ServerLimits,
    counts: Arc<ServerCounts>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: HashMap<u64, Arc<Activity>>,
}

impl Open {
    /// Removes and closes the connection that can be spared most. Returns whether there was one.
    fn evict(&mut self) -> bool {
        let spare = self.by_number.iter().filter_map(|(number, activity)| Some((activity.eviction_rank()?, *number)));
        let Some((_, number)) = spare.max() else { return false };
        if let Some(activity) = self.by_number.remove(&number) {
            activity.close();
        }
        true
    }
}

impl Table {
    pub(crate) fn new(limits: ServerLimits, counts: Arc<ServerCounts>) -> Arc<Self> {
        Arc::new(Self { limits, counts, open: Mutex::default() })
    }

    /// Admits a new connection. Another one makes room if necessary; `None` if none can be spared.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let mut open = self.open.lock();
        if open.by_number.len() >= self.limits.max_connections {
            let reason = if open.evict() { Refusal::Evicted } else { Refusal::Full };
            self.counts.add(reason);
            if reason == Refusal::Full {
                return None;
            }
        }
        let activity = Arc::new(Activity::new());
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, Arc::clone(&activity));
        self.counts.set_open(open.by_number.len());
        Some(Admitted { table: Arc::clone(self), number, activity })
    }

    /// Closes one connection that can be spared, because the process has no descriptor left.
    pub(crate) fn free_descriptor(&self) {
        if self.open.lock().evict() {
            self.counts.add(Refusal::Descriptors);
        }
    }

    /// Closes the connections whose time is over.
    pub(crate) fn sweep(&self) {
        let open = self.open.lock();
        for activity in open.by_number.values() {
            match activity.expired(&self.limits) {
                None => continue,
                Some(Expiry::Idle) => {}
                Some(Expiry::Refused(reason)) => self.counts.add(reason),
            }
            activity.close();
        }
    }

    pub(crate) fn counts(&self) -> &Arc<ServerCounts> {
        &self.counts
    }
}

/// The entry of an admitted connection. Dropping it makes room for another. The socket has it, whoever has the socket.
#[derive(Debug)]
pub(crate) struct Admitted {
    table: Arc<Table>,
    number: u64,
    pub(crate) activity: Arc<Activity>,
}

impl Admitted {
    pub(crate) fn counts(&self) -> &Arc<ServerCounts> {
        &self.table.counts
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.table.open.lock();
        open.by_number.remove(&self.number);
        self.table.counts.set_open(open.by_number.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Phase;

    #[test]
    fn only_a_connection_that_was_closed_for_its_descriptor_is_counted() {
        let counts = Arc::new(ServerCounts::default());
        let table = Table::new(ServerLimits::default(), Arc::clone(&counts));
        let admitted = table.admit().unwrap();
        let counted = || counts.refused().into_iter().find(|(reason, _)| *reason == "descriptors").unwrap().1;
        admitted.activity.enter(Phase::Answer);
        table.free_descriptor();
        assert_eq!(counted(), 0, "it is being answered");
        admitted.activity.enter(Phase::Idle);
        table.free_descriptor();
        assert_eq!(counted(), 1);
    }
}
