//! The place of one result in the spool.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The place of one result in the spool, from before it is written until it is gone. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ticket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Name of its files, without their endings.
    stem: String,
    /// Locked while the disk works on it, so that only threads that may wait look at it.
    place: Mutex<Place>,
    /// A write has begun.
    begun: AtomicBool,
    /// `place` is `Disk`.
    written: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not written (yet).
    Memory,
    /// A write failed, and what it left behind may still be there.
    Unsure,
    /// In `results/`.
    Disk,
    /// Delivered, buried or discarded: must not be written any more.
    Gone,
}

impl Ticket {
    pub(super) fn new(stem: String, place: Place) -> Self {
        let on_disk = place == Place::Disk;
        let (begun, written) = (AtomicBool::new(on_disk), AtomicBool::new(on_disk));
        Self(Arc::new(Inner { stem, place: Mutex::new(place), begun, written }))
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
    pub(super) fn may_be_written(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// From now on there may be something on disk.
    pub(super) fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
    }

    pub(super) fn put(&self, place: &mut Place, new: Place) {
        *place = new;
        self.0.written.store(new == Place::Disk, Ordering::Release);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
