//! Large payloads that several requests read at the same time: one copy for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde_json::value::RawValue;

use crate::store::payload::{Part, Payload};

/// Which payload of which job.
type Key = (i64, Part);

/// A payload that somebody may hold. Locked while it is read, so that those who want the same wait for that copy.
type Slot = Arc<Mutex<Option<Weak<RawValue>>>>;

/// Slots before those without a payload are dropped.
const MAX_SLOTS: usize = 1024;

/// The payloads that are held at the moment.
#[derive(Debug, Default)]
pub(super) struct SharedPayloads {
    slots: Mutex<HashMap<Key, Slot>>,
}

impl SharedPayloads {
    /// The payload that somebody holds already, or what `read` finds.
    pub(super) fn get<E>(
        &self,
        key: Key,
        read: impl FnOnce() -> Result<Option<Payload>, E>,
    ) -> Result<Option<Payload>, E> {
        let slot = self.slot(key);
        let mut held = slot.lock();
        if let Some(payload) = held.as_ref().and_then(Weak::upgrade) {
            return Ok(Some(payload));
        }
        let found = read()?;
        *held = found.as_ref().map(Arc::downgrade);
        Ok(found)
    }

    /// Notes that the payload is another one from now on. Who holds the old one keeps it.
    pub(super) fn forget(&self, key: Key) {
        self.slots.lock().remove(&key);
    }

    fn slot(&self, key: Key) -> Slot {
        let mut slots = self.slots.lock();
        if slots.len() >= MAX_SLOTS {
            // A slot that is locked is in use.
            slots.retain(|_, slot| {
                slot.try_lock().is_none_or(|held| held.as_ref().is_some_and(|held| held.strong_count() > 0))
            });
        }
        Arc::clone(slots.entry(key).or_default())
    }
}
