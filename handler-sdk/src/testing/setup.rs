//! How a handler under test is loaded.

use crate::fake_device::FakeDevice;

/// Id of the worker that the harness plays.
pub(super) const WORKER: &str = "test";

/// How to load a handler for a test: by default one slot, on the device that the handler chooses itself.
#[derive(Clone, Debug)]
pub struct Setup {
    pub(super) slots: u32,
    pub(super) device: String,
    pub(super) chunk_window: u32,
    pub(super) fake_device: Option<FakeDevice>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { slots: 1, device: "auto".into(), chunk_window: 1, fake_device: None }
    }
}

impl Setup {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of slots, as with `--slots`: each has a model of its own.
    #[must_use]
    pub fn slots(self, slots: u32) -> Self {
        Self { slots: slots.max(1), ..self }
    }

    /// The device, as with `--device`: `auto`, `cpu` or `cuda`.
    #[must_use]
    pub fn device(self, device: &str) -> Self {
        Self { device: device.to_owned(), ..self }
    }

    /// How many chunks of a job may be on their way to a reader; 1 by default.
    #[must_use]
    pub fn chunk_window(self, chunks: u32) -> Self {
        Self { chunk_window: chunks.max(1), ..self }
    }

    /// The models compute on this device. The handler has to choose the CPU, as it does with `auto` on a machine without a GPU.
    #[must_use]
    pub fn fake_device(self, device: &FakeDevice) -> Self {
        Self { device: "cpu".to_owned(), fake_device: Some(device.clone()), ..self }
    }
}
