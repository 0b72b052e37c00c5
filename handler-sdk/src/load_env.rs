//! What a handler is told, and can do, while its model is loaded.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use runpod_handler_protocol::ToSupervisor;

use crate::HandlerError;
use crate::outgoing::Outgoing;

/// The circumstances of one slot, given to [`Handler::load`](crate::Handler::load).
#[derive(Debug)]
pub struct LoadEnv {
    pub(crate) slot: u32,
    pub(crate) slots: u32,
    pub(crate) worker_id: String,
    pub(crate) requested_device: String,
    pub(crate) device: OnceLock<String>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) shared: Arc<Shared>,
}

impl LoadEnv {
    /// Number of this slot, from 0.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// How many slots this process has.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Id of the worker on the platform.
    pub fn worker_id(&self) -> &str {
        &self.worker_id
    }

    /// What the operator asked for: `auto`, `cpu` or `cuda`. With feature `torch`, `device` turns it into a device.
    pub fn requested_device(&self) -> &str {
        &self.requested_device
    }

    /// Says where the model lives, such as `cuda:0`, for handlers that choose their device without this crate's help.
    /// The first call counts. Without one the worker shows `cpu`.
    ///
    /// It also decides what becomes of an error whose text speaks of a dead CUDA context: when the reported device is seen
    /// to work, the text is taken for a quotation, and the job alone fails. With feature `torch` one number is computed on
    /// that device, and on no other, which waits for what the GPU has been given before; without it only `cpu` counts as
    /// working. When nothing was reported the text is believed, and the process is replaced.
    pub fn report_device(&self, device: impl Into<String>) {
        let _ = self.device.set(device.into());
    }

    /// Says how far loading has come, so that start-up is judged by progress and not only by a clock. `stage` is a word such
    /// as `weights`; `total` is 0 when unknown. Cheap: only the newest counts.
    pub fn progress(&self, stage: &str, done: u64, total: u64) {
        let message = ToSupervisor::Loading { slot: self.slot, stage: stage.to_owned(), done, total };
        self.outgoing.push(&message, Bytes::new());
    }

    /// Something that all slots of the process share, such as a tokenizer: built by the first slot that asks for the type,
    /// lent to all others. It survives a reload after a panic. `build` must not ask for the same type again.
    ///
    /// # Errors
    /// What `build` returns; then the next slot tries again.
    pub fn shared<T: Send + Sync + 'static>(
        &self,
        build: impl FnOnce() -> Result<T, HandlerError>,
    ) -> Result<Arc<T>, HandlerError> {
        let cell = Arc::clone(
            self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).entry(TypeId::of::<T>()).or_default(),
        );
        // A lock for each type: others that need the same value wait for it, and `build` may share other types.
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(value)) = cell.clone().map(Arc::downcast) {
            return Ok(value);
        }
        let value = Arc::new(build()?);
        *cell = Some(Arc::clone(&value) as _);
        Ok(value)
    }

    /// An environment that leads nowhere.
    #[cfg(all(test, feature = "torch"))]
    pub(crate) fn for_tests(device: &str) -> Self {
        Self {
            slot: 0,
            slots: 1,
            worker_id: "w".to_owned(),
            requested_device: device.to_owned(),
            device: OnceLock::new(),
            outgoing: Arc::default(),
            shared: Arc::default(),
        }
    }

    /// Where the model lives, as far as the handler has said.
    ///
    /// # Errors
    /// When the operator asked for a GPU and the handler never chose a device: that would be a silent fall-back.
    pub(crate) fn device_in_use(&self) -> Result<Option<&str>, HandlerError> {
        match self.device.get() {
            Some(device) => Ok(Some(device)),
            None if self.requested_device == "cuda" => {
                Err("the worker was started with --device cuda, but this handler never \
                chooses a device: start it with --device auto, or let load() call LoadEnv::device (feature `torch`) or \
                LoadEnv::report_device"
                    .into())
            }
            None => Ok(None),
        }
    }
}

type SharedCell = Arc<Mutex<Option<Arc<dyn Any + Send + Sync>>>>;

/// One value a type, for the whole process.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<HashMap<TypeId, SharedCell>>);
