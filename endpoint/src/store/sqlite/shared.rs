//! Large payloads that several requests read at the same time: one copy for all of them, and a limit for all copies.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde_json::value::RawValue;

use crate::store::payload::{Part, Payload};

/// Which payload of which job.
type Key = (i64, Part);

/// A payload that somebody may hold. Locked while it is read, so that those who want the same wait for that copy.
type Slot = Arc<Mutex<Option<Weak<Box<RawValue>>>>>;

/// Slots before those without a payload are dropped.
const MAX_SLOTS: usize = 1024;

/// The results that are held and read at the moment fill their memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the results that are being sent fill their memory")]
pub(super) struct NoMemory;

/// The payloads that are held at the moment.
#[derive(Debug)]
pub(super) struct SharedPayloads {
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Key, Slot>,
    /// Bytes of the payloads that are being read.
    reading: usize,
}

impl State {
    /// Bytes of the payloads that somebody holds. One that is being read is locked.
    fn held(&self) -> usize {
        let held = self.slots.values().filter_map(|slot| slot.try_lock()?.as_ref()?.upgrade());
        held.map(|payload| payload.get().len()).sum()
    }
}

impl SharedPayloads {
    /// At most `max_bytes` of results are held at once.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default() }
    }

    /// The payload that somebody holds already, or what `read` finds: `bytes` of text.
    ///
    /// # Errors
    /// That of `read`, or [`NoMemory`] for a result. Inputs are read for workers, which take as many as they can run.
    pub(super) fn get<E: From<NoMemory>>(
        &self,
        key: Key,
        bytes: usize,
        read: impl FnOnce() -> Result<Option<Payload>, E>,
    ) -> Result<Option<Payload>, E> {
        let slot = self.slot(key);
        let mut held = slot.lock();
        if let Some(payload) = held.as_ref().and_then(Weak::upgrade) {
            return Ok(Some(payload));
        }
        let reading = self.begin(bytes, key.1 == Part::Output)?;
        let found = read()?;
        *held = found.as_ref().map(Arc::downgrade);
        // It is counted as held before it no longer counts as being read.
        drop(held);
        drop(reading);
        Ok(found)
    }

    /// Notes that the payload is another one from now on. Who holds the old one keeps it.
    pub(super) fn forget(&self, key: Key) {
        self.state.lock().slots.remove(&key);
    }

    fn begin(&self, bytes: usize, is_limited: bool) -> Result<Reading<'_>, NoMemory> {
        let mut state = self.state.lock();
        if is_limited && state.held() + state.reading + bytes > self.max_bytes {
            return Err(NoMemory);
        }
        state.reading += bytes;
        Ok(Reading { payloads: self, bytes })
    }

    fn slot(&self, key: Key) -> Slot {
        let slots = &mut self.state.lock().slots;
        if slots.len() >= MAX_SLOTS {
            // A slot that is locked is in use.
            slots.retain(|_, slot| {
                slot.try_lock().is_none_or(|held| held.as_ref().is_some_and(|held| held.strong_count() > 0))
            });
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

/// A payload that is being read.
struct Reading<'a> {
    payloads: &'a SharedPayloads,
    bytes: usize,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.payloads.state.lock().reading -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> Payload {
        RawValue::from_string("7".repeat(bytes)).unwrap().into()
    }

    #[test]
    fn results_that_are_held_have_a_limit_and_go_with_their_last_holder() {
        let payloads = SharedPayloads::new(100);
        let get = |job, part, bytes| payloads.get::<NoMemory>((job, part), bytes, || Ok(Some(text(bytes))));
        let held = get(1, Part::Output, 60).unwrap();
        assert_eq!(get(2, Part::Output, 41).unwrap_err(), NoMemory);
        assert!(get(1, Part::Output, 60).is_ok(), "another reader of the same costs nothing");
        assert!(get(2, Part::Input, 1000).is_ok(), "what a worker takes is not refused");
        drop(held);
        assert!(get(2, Part::Output, 100).is_ok());
    }

    #[test]
    fn what_is_being_read_counts() {
        let payloads = SharedPayloads::new(100);
        let outer = payloads.get::<NoMemory>((1, Part::Output), 60, || {
            let inner = payloads.get::<NoMemory>((2, Part::Output), 60, || Ok(Some(text(60))));
            assert_eq!(inner.unwrap_err(), NoMemory);
            Ok(None)
        });
        assert!(outer.unwrap().is_none() && payloads.state.lock().reading == 0);
    }
}
