//! Makes libtorch's CPU the fake device of tests: every tensor that is created is one operation.

use std::sync::Once;

use super::memory::install_fake_device;
use crate::fake_device::{DeviceFault, FakeDevice};

/// From now on a thread that has a fake device creates its tensors there. Other threads notice nothing.
pub(crate) fn use_fake_devices() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| install_fake_device(fake_device_operation));
}

extern "C" fn fake_device_operation(bytes: usize) -> i32 {
    match FakeDevice::operation(bytes) {
        Ok(()) => 0,
        Err(DeviceFault::OutOfMemory { .. }) => 1,
        Err(DeviceFault::Lost) => 2,
    }
}
