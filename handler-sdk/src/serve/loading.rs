//! Loads the model of a slot, and tests the device that holds it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ToSupervisor};

use crate::error::HandlerError;
use crate::fake_device::FakeDevice;
use crate::load_env::{LoadEnv, Shared};
use crate::panics;
use crate::running_job::RunningJobs;
use crate::send_queue::SendQueue;
use crate::serve::fitness::Fitness;
use crate::serve::job_memory::JobMemory;
use crate::serve::uploads::Uploads;
use crate::text::log;

/// What all slots of the process have in common.
#[derive(Clone, Debug)]
pub(crate) struct SlotSetup {
    /// Handler processes of the worker.
    #[cfg_attr(not(feature = "torch"), expect(dead_code, reason = "only the threads of libtorch depend on it"))]
    pub(crate) processes: u32,
    /// The worker wants reports about batches and steps.
    pub(crate) batch_reports: bool,
    /// Models in this process, each on a thread of its own.
    pub(crate) models: u32,
    pub(crate) worker_id: String,
    pub(crate) device: String,
    pub(crate) queue: Arc<SendQueue>,
    pub(crate) jobs: Arc<RunningJobs>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) shared: Arc<Shared>,
    /// The outcome of the fitness checks; `None` when the worker did not ask for any.
    pub(crate) fitness: Option<Arc<Fitness>>,
    /// The device of a test.
    pub(crate) fake_device: Option<FakeDevice>,
}

/// The model could not be built, or a fitness check failed. The reason was reported to the worker.
#[derive(Debug)]
pub(crate) struct LoadFailed;

/// A handler with its model.
#[derive(Debug)]
pub(crate) struct Loaded<H> {
    pub(crate) handler: H,
    pub(crate) memory: JobMemory,
}

/// The settings of the thread of a model, in force while this is alive.
pub(crate) struct ThreadGuard {
    #[cfg(feature = "torch")]
    _no_grad: tch::NoGradGuard,
}

/// Waits for the fitness checks, and prepares the calling thread for a model.
pub(crate) fn prepare_thread(setup: &SlotSetup) -> Result<ThreadGuard, LoadFailed> {
    if setup.fitness.as_ref().is_some_and(|fitness| !fitness.wait()) {
        return Err(LoadFailed);
    }
    FakeDevice::enter(setup.fake_device.as_ref());
    Ok(ThreadGuard {
        #[cfg(feature = "torch")]
        _no_grad: crate::torch::prepare_model_thread(crate::torch::CpuShares {
            processes: setup.processes,
            models_in_each: setup.models,
        }),
    })
}

/// Builds the model of a slot and warms it up, and reports the outcome.
pub(crate) fn load<H>(
    slot: u32,
    setup: &SlotSetup,
    load: impl FnOnce(&LoadEnv) -> Result<H, HandlerError>,
    warm_up: impl FnOnce(&mut H) -> Result<(), HandlerError>,
) -> Result<Loaded<H>, LoadFailed> {
    match build(slot, setup, load, warm_up) {
        Ok((loaded, message)) => {
            setup.queue.push(&message, Bytes::new());
            Ok(loaded)
        }
        Err(error) => {
            let report = error.into_report(ErrorKind::Load);
            log(format_args!("slot {slot} cannot load: {}", report.message));
            setup.queue.push_report(&ToSupervisor::LoadFailed { slot }, &report);
            Err(LoadFailed)
        }
    }
}

/// Builds a model again, after a panic, while jobs wait for it.
pub(crate) fn reload<H>(
    slot: u32,
    setup: &SlotSetup,
    build: impl FnOnce(&LoadEnv) -> Result<H, HandlerError>,
    warm_up: impl FnOnce(&mut H) -> Result<(), HandlerError>,
) -> Result<Loaded<H>, LoadFailed> {
    let loading = ToSupervisor::Loading { slot, stage: "again after a panic".to_owned(), done: 0, total: 0 };
    setup.queue.push(&loading, Bytes::new());
    load(slot, setup, build, warm_up)
}

/// Builds the model of a slot and warms it up. Returns it with the message about it.
fn build<H>(
    slot: u32,
    setup: &SlotSetup,
    load: impl FnOnce(&LoadEnv) -> Result<H, HandlerError>,
    warm_up: impl FnOnce(&mut H) -> Result<(), HandlerError>,
) -> Result<(Loaded<H>, ToSupervisor), HandlerError> {
    let started = Instant::now();
    let env = LoadEnv {
        slot,
        slots: setup.models,
        worker_id: setup.worker_id.clone(),
        requested_device: setup.device.clone(),
        device: OnceLock::new(),
        queue: Arc::clone(&setup.queue),
        shared: Arc::clone(&setup.shared),
    };
    let (handler, device, warm_up_millis) = panics::catch("load", || {
        let mut handler = load(&env)?;
        let loaded = Instant::now();
        warm_up(&mut handler)?;
        let warm_up_millis = millis(loaded.elapsed());
        Ok((handler, env.device_in_use()?.map(str::to_owned), warm_up_millis))
    })
    .and_then(|result: Result<_, HandlerError>| result)?;
    let millis = millis(started.elapsed());
    let memory = JobMemory::of(device.as_deref());
    let device = device.unwrap_or_else(|| "cpu".to_owned());
    Ok((Loaded { handler, memory }, ToSupervisor::Loaded { slot, device, millis, warm_up_millis }))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Tests the device of a slot, and reports the outcome.
pub(crate) fn probe(slot: u32, setup: &SlotSetup, memory: &JobMemory) {
    let Err(error) = memory.probe() else {
        return setup.queue.push(&ToSupervisor::Probed { slot, ok: true }, Bytes::new());
    };
    log(format_args!("slot {slot}: the device no longer works: {error}"));
    let report = HandlerError::new(ErrorKind::DeviceLost, error).into_report(ErrorKind::DeviceLost);
    setup.queue.push_report(&ToSupervisor::Probed { slot, ok: false }, &report);
}

/// Drops a model. That runs user code, which is likely to panic after a CUDA error.
pub(crate) fn discard<H>(handler: H) {
    if let Err(error) = panics::catch("dropping the handler", || drop(handler)) {
        log(format_args!("{error}"));
    }
}
