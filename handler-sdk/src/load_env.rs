//! What a handler can learn and do while its model is loaded.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use runpod_handler_protocol::ToSupervisor;

use crate::error::HandlerError;
use crate::send_queue::SendQueue;

/// The environment of one slot, passed to [`Handler::load`](crate::Handler::load).
#[derive(Debug)]
pub struct LoadEnv {
    pub(crate) slot: u32,
    pub(crate) slots: u32,
    pub(crate) worker_id: String,
    pub(crate) requested_device: String,
    pub(crate) device: OnceLock<String>,
    pub(crate) queue: Arc<SendQueue>,
    pub(crate) shared: Arc<Shared>,
}

impl LoadEnv {
    /// Number of this slot, from 0.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Number of slots in this process.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Id of the worker on the platform.
    pub fn worker_id(&self) -> &str {
        &self.worker_id
    }

    /// The device that the operator requested: `auto`, `cpu` or `cuda`. With feature `torch`, `device` chooses a device by it.
    pub fn requested_device(&self) -> &str {
        &self.requested_device
    }

    /// Reports the device that holds the model, such as `cuda:0`. Only handlers that choose their device without
    /// `LoadEnv::device` need it. The first call wins. Without a call the worker shows `cpu`.
    ///
    /// The reported device also matters when the text of an error looks like a lost CUDA context. If the device still works,
    /// only the job fails: its error may quote such a text. Otherwise the worker replaces the process. With feature `torch`
    /// the device is tested by computing one number on it, which waits for the work that the GPU already has; without the
    /// feature only `cpu` counts as working. When no device was reported, the process is replaced.
    pub fn report_device(&self, device: impl Into<String>) {
        let _ = self.device.set(device.into());
    }

    /// Reports the progress of loading, which extends the worker's limit for a start without progress. `stage` is a word such
    /// as `weights`; `total` is 0 when unknown. Cheap: a newer report replaces one that has not been sent yet.
    pub fn progress(&self, stage: &str, done: u64, total: u64) {
        let message = ToSupervisor::Loading { slot: self.slot, stage: stage.to_owned(), done, total };
        self.queue.push(&message, Bytes::new());
    }

    /// A value that all slots of the process share, such as a tokenizer. The first slot that asks for the type builds it. It
    /// survives a reload after a panic. `build` must not ask for the same type again.
    ///
    /// # Errors
    /// The error of `build`; the next slot then tries again.
    pub fn shared<T: Send + Sync + 'static>(
        &self,
        build: impl FnOnce() -> Result<T, HandlerError>,
    ) -> Result<Arc<T>, HandlerError> {
        let cell = Arc::clone(self.shared.0.lock().entry(TypeId::of::<T>()).or_default());
        // One lock a type: slots that need the same value wait for it, and `build` can share values of other types.
        let mut cell = cell.lock();
        if let Some(Ok(value)) = cell.clone().map(Arc::downcast) {
            return Ok(value);
        }
        let value = Arc::new(build()?);
        *cell = Some(Arc::clone(&value) as _);
        Ok(value)
    }

    /// An environment without a worker.
    #[cfg(all(test, feature = "torch"))]
    pub(crate) fn for_tests(device: &str) -> Self {
        Self {
            slot: 0,
            slots: 1,
            worker_id: "w".to_owned(),
            requested_device: device.to_owned(),
            device: OnceLock::new(),
            queue: Arc::default(),
            shared: Arc::default(),
        }
    }

    /// The device that the handler reported, if it reported one.
    ///
    /// # Errors
    /// When the operator requested a GPU and the handler never chose a device: using the CPU would be a silent fallback.
    pub(crate) fn device_in_use(&self) -> Result<Option<&str>, HandlerError> {
        match self.device.get() {
            Some(device) => Ok(Some(device)),
            None if self.requested_device == "cuda" => {
                Err("the worker was started with --device cuda, but this handler never chooses a device: start the worker with \
                     --device auto, or call LoadEnv::device (feature `torch`) or LoadEnv::report_device in load()"
                    .into())
            }
            None => Ok(None),
        }
    }
}

type SharedCell = Arc<Mutex<Option<Arc<dyn Any + Send + Sync>>>>;

/// The shared values of the process, one for each type.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<HashMap<TypeId, SharedCell>>);

#[cfg(feature = "async")]
impl Shared {
    /// Shares a value of the SDK.
    pub(crate) fn insert<T: Send + Sync + 'static>(&self, value: T) {
        let value: Arc<dyn Any + Send + Sync> = Arc::new(value);
        self.0.lock().insert(TypeId::of::<T>(), Arc::new(Mutex::new(Some(value))));
    }
}
