//! One result in the spool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// The entry of one result in the spool, from before it is written until it is removed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SpoolEntry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Name of its files, without their endings.
    stem: String,
    /// Locked while the disk works on it, so that only threads that may wait look at it.
    state: Mutex<EntryState>,
    /// A write has begun.
    begun: AtomicBool,
    /// `state` is `Written`.
    written: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    /// Not written (yet).
    Unwritten,
    /// A write failed, and what it left behind may still be there.
    Uncertain,
    /// In `results/`.
    Written,
    /// Delivered, discarded or a dead letter: must not be written any more.
    Closed,
}

impl SpoolEntry {
    pub(super) fn new(stem: String, state: EntryState) -> Self {
        let on_disk = state == EntryState::Written;
        let (begun, written) = (AtomicBool::new(on_disk), AtomicBool::new(on_disk));
        Self(Arc::new(Inner { stem, state: Mutex::new(state), begun, written }))
    }

    /// The result is safe on disk. Does not wait for the disk.
    pub fn is_written(&self) -> bool {
        self.0.written.load(Ordering::Acquire)
    }

    /// Name of its files, without their endings.
    pub(super) fn stem(&self) -> &str {
        &self.0.stem
    }

    /// There may be something on disk, now or later. Does not wait for the disk.
    pub(in crate::outbox) fn may_be_written(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// From now on there may be something on disk.
    pub(in crate::outbox) fn begin_write(&self) {
        self.0.begun.store(true, Ordering::Release);
    }

    /// Changes the state, which the caller has locked.
    pub(super) fn set(&self, state: &mut EntryState, new: EntryState) {
        *state = new;
        self.0.written.store(new == EntryState::Written, Ordering::Release);
    }

    /// Locks the state. Waits for the disk.
    pub(super) fn lock(&self) -> MutexGuard<'_, EntryState> {
        self.0.state.lock()
    }
}
