//! A device that fails when a test wants it to. Only [`testing`](crate::testing) makes one; without it every operation succeeds.

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

thread_local! {
    /// The fake device of the model that runs on this thread.
    static OF_THREAD: RefCell<Option<FakeDevice>> = const { RefCell::new(None) };
}

/// How a [`FakeDevice`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// One operation runs out of memory. The next one works.
    OutOfMemory,
    /// The device is lost: every operation fails until the handler is [restarted](crate::testing::Harness::restart), and probes fail too.
    Lost,
    /// The operation does not return, as a kernel that is stuck. It fails when the device is [released](FakeDevice::release).
    Hang,
}

/// The error of a failed operation, in the words of libtorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceFault {
    /// See [`Fault::OutOfMemory`].
    #[error("CUDA out of memory. Tried to allocate {bytes} bytes (fake device)")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// See [`Fault::Lost`]. A hanging operation that is released ends with this error too.
    #[error("CUDA error: an illegal memory access was encountered (fake device)")]
    Lost,
}

/// A device for tests that fails on demand. Give it to a handler with [`Setup::fake_device`](crate::testing::Setup::fake_device).
///
/// With the feature `torch` every tensor that the handler creates on the CPU is an **operation**: the handler under test needs no
/// change, and fails where it would on a GPU. A handler that computes otherwise calls [`FakeDevice::operation`] from the double of its
/// model. Only operations on the threads that load and run the models count.
///
/// Clones are the same device.
#[derive(Clone, Debug, Default)]
pub struct FakeDevice(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    operations: u64,
    /// The operation that fails, counted as `operations` is, and how.
    planned: Option<(u64, Fault)>,
    largest: Option<usize>,
    lost: bool,
    hanging: usize,
    released: bool,
}

impl FakeDevice {
    /// A device that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes one operation fail: 0 is the next one. Replaces an earlier plan.
    pub fn fail_after(&self, operations: u64, fault: Fault) {
        let mut state = self.0.state.lock();
        state.planned = Some((state.operations.saturating_add(operations), fault));
        state.released = false;
    }

    /// An operation that needs more than this many bytes at once runs out of memory, always. `None` lifts the limit.
    pub fn limit_allocation(&self, bytes: impl Into<Option<usize>>) {
        self.0.state.lock().largest = bytes.into();
    }

    /// How many operations there were. With it a test can fail each of them in turn.
    pub fn operations(&self) -> u64 {
        self.0.state.lock().operations
    }

    /// How many operations hang now.
    pub fn hanging(&self) -> usize {
        self.0.state.lock().hanging
    }

    /// Ends the operations that hang: they fail with [`DeviceFault::Lost`]. The harness does so when it is dropped.
    pub fn release(&self) {
        let mut state = self.0.state.lock();
        state.released = true;
        self.0.changed.notify_all();
    }

    /// One operation on the device of the calling thread, which needs this many bytes. A double of a model calls it where the model
    /// would compute. Without a fake device it does nothing.
    ///
    /// # Errors
    /// The failure that the test has ordered.
    pub fn operation(bytes: usize) -> Result<(), DeviceFault> {
        match OF_THREAD.with_borrow(Option::clone) {
            Some(device) => device.operate(bytes),
            None => Ok(()),
        }
    }

    /// Makes this the device of the calling thread, as long as the thread lives.
    pub(crate) fn enter(device: Option<&Self>) {
        OF_THREAD.with_borrow_mut(|of_thread| *of_thread = device.cloned());
    }

    /// Whether the device of the calling thread still works.
    pub(crate) fn probe() -> Result<(), DeviceFault> {
        let lost = OF_THREAD.with_borrow(|device| device.as_ref().is_some_and(|device| device.0.state.lock().lost));
        if lost { Err(DeviceFault::Lost) } else { Ok(()) }
    }

    /// A new process finds the device as good as new.
    pub(crate) fn reset(&self) {
        let mut state = self.0.state.lock();
        (state.lost, state.released) = (false, false);
    }

    fn operate(&self, bytes: usize) -> Result<(), DeviceFault> {
        let mut state = self.0.state.lock();
        let number = state.operations;
        state.operations += 1;
        if state.lost {
            return Err(DeviceFault::Lost);
        }
        if state.largest.is_some_and(|largest| bytes > largest) {
            return Err(DeviceFault::OutOfMemory { bytes });
        }
        let Some((_, fault)) = state.planned.take_if(|(planned, _)| *planned <= number) else { return Ok(()) };
        match fault {
            Fault::OutOfMemory => Err(DeviceFault::OutOfMemory { bytes }),
            Fault::Lost => {
                state.lost = true;
                Err(DeviceFault::Lost)
            }
            Fault::Hang => {
                state.hanging += 1;
                self.0.changed.wait_while(&mut state, |state| !state.released);
                state.hanging -= 1;
                Err(DeviceFault::Lost)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planned_operation_fails_and_the_next_one_works() {
        let device = FakeDevice::new();
        device.fail_after(1, Fault::OutOfMemory);
        let seen: Vec<_> = (0..3).map(|bytes| device.operate(bytes).is_ok()).collect();
        assert_eq!((seen, device.operations()), (vec![true, false, true], 3));
    }

    #[test]
    fn large_operations_fail_while_there_is_a_limit() {
        let device = FakeDevice::new();
        device.limit_allocation(10);
        assert_eq!(device.operate(11), Err(DeviceFault::OutOfMemory { bytes: 11 }));
        assert_eq!(device.operate(10), Ok(()));
        device.limit_allocation(None);
        assert_eq!(device.operate(11), Ok(()));
    }

    #[test]
    fn a_lost_device_stays_lost_until_the_process_is_new() {
        let device = FakeDevice::new();
        device.fail_after(0, Fault::Lost);
        assert_eq!((device.operate(1), device.operate(1)), (Err(DeviceFault::Lost), Err(DeviceFault::Lost)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                FakeDevice::enter(Some(&device));
                assert_eq!(FakeDevice::probe(), Err(DeviceFault::Lost));
            });
        });
        device.reset();
        assert_eq!(device.operate(1), Ok(()));
    }

    #[test]
    fn a_thread_without_a_fake_device_is_not_disturbed() {
        assert_eq!((FakeDevice::operation(usize::MAX), FakeDevice::probe()), (Ok(()), Ok(())));
    }
}
