//! Runs the fitness checks, those of the handler and those of the device, once before a model is built.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use runpod_handler_protocol::{CheckOrder, CheckReport, ToSupervisor};

use crate::check::{Check, MAX_DETAIL};
use crate::load_env::{LoadEnv, Shared};
use crate::panics;
use crate::send_queue::SendQueue;
use crate::serve::fitness::Fitness;
use crate::serve::program::Program;
use crate::text::{cut, log};

/// Runs all checks and reports the outcome to the worker and to the slots. Runs on a thread of its own.
pub(crate) fn run_checks<P: Program>(order: &CheckOrder, processes: u32, queue: &Arc<SendQueue>, fitness: &Fitness) {
    #[cfg(not(feature = "torch"))]
    let _ = processes;
    #[cfg(feature = "torch")]
    let shares = crate::torch::CpuShares { processes, models_in_each: order.slots };
    // Before the first operation, which may be one of the handler's own checks.
    #[cfg(feature = "torch")]
    crate::torch::limit_threads(shares);
    let env = LoadEnv {
        slot: 0,
        slots: 1,
        worker_id: order.worker_id.clone(),
        requested_device: order.device.clone(),
        device: OnceLock::new(),
        queue: Arc::clone(queue),
        shared: Arc::<Shared>::default(),
    };
    // The handler's own checks run first, as in RunPod's SDK: their reasons are the more useful ones.
    let mut reports: Vec<CheckReport> = match panics::catch("Handler::checks", || P::checks(&env)) {
        Ok(checks) => checks.into_iter().map(Check::run).collect(),
        Err(error) => vec![CheckReport::failed("handler", cut(error.message(), MAX_DETAIL), "")],
    };
    #[cfg(feature = "torch")]
    reports.extend(crate::torch::device_checks(order, shares));
    #[cfg(not(feature = "torch"))]
    reports.push(CheckReport::skipped("device", "the handler was built without the feature `torch`"));

    for report in reports.iter().filter(|report| report.is_failure()) {
        log(format_args!("fitness check {} failed: {}", report.name, report.reason()));
    }
    match serde_json::to_vec(&reports) {
        Ok(payload) => queue.push(&ToSupervisor::Checked, Bytes::from(payload)),
        Err(error) => log(format_args!("the outcome of the fitness checks cannot be written as JSON: {error}")),
    }
    fitness.decide(!reports.iter().any(CheckReport::is_failure));
}
