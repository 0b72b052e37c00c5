//! Handler processes: their starts, their ends, and the time until a slot is free again.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::{Cause, Measure, Phase, long_histogram, register};
use runpod_worker_core::{Exit, ExitReason, Incarnation, ProcessId, RecycleReason, Report, StartPhase};

const RESTART_CAUSES: [&str; 7] = ["exit", "killed", "oom", "planned", "signal", "start_failed", "unknown"];

#[derive(Debug)]
pub(super) struct ProcessMetrics {
    restarts: Family<Cause, Counter>,
    recycles: Family<Cause, Counter>,
    load_time: Histogram,
    start_phases: Family<Phase, Measure>,
    cold_starts: Counter,
    time_to_free: Histogram,
    /// Why a process is going to be started again; one entry per process at most.
    restart_causes: Mutex<BTreeMap<ProcessId, &'static str>>,
}

impl ProcessMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let metrics = Self {
            restarts: register(r, "runpod_worker_handler_restarts", "Handler restarts, by cause", Family::default()),
            recycles: register(
                r,
                "runpod_worker_recycles",
                "Healthy handler processes replaced between jobs, by cause",
                Family::default(),
            ),
            load_time: register(
                r,
                "runpod_worker_load_seconds",
                "Time to load and warm up the model of a slot",
                long_histogram(),
            ),
            start_phases: register(
                r,
                "runpod_worker_start_phase_seconds",
                "How long each part of the last start of a handler process took",
                Family::default(),
            ),
            cold_starts: register(
                r,
                "runpod_worker_cold_starts",
                "Handler processes that have loaded their models and begun to take jobs",
                Counter::default(),
            ),
            time_to_free: register(
                r,
                "runpod_worker_time_to_free_seconds",
                "Time from asking a job to stop until its slot no longer runs it",
                long_histogram(),
            ),
            restart_causes: Mutex::default(),
        };
        for cause in RESTART_CAUSES {
            drop(metrics.restarts.get_or_create(&Cause { cause }));
        }
        for cause in RecycleReason::ALL.map(RecycleReason::as_str) {
            drop(metrics.recycles.get_or_create(&Cause { cause }));
        }
        metrics
    }

    pub(super) fn observe(&self, report: &Report) {
        match report {
            Report::SlotReady { load_time, .. } => self.load_time.observe(load_time.as_secs_f64()),
            Report::StartPhase { phase, time, .. } => {
                self.start_phases.get_or_create(&Phase { phase: phase.as_str() }).set(time.as_secs_f64());
                if *phase == StartPhase::Load {
                    self.cold_starts.inc();
                }
            }
            Report::JobFinished { stop_time: Some(time), .. } => self.time_to_free.observe(time.as_secs_f64()),
            Report::ProcessKilled { process, .. } => self.ended(*process, "killed"),
            Report::ProcessExited { process, exit, expected } => {
                self.ended(*process, if *expected { "planned" } else { exit_cause(exit) });
            }
            Report::StartFailed { process, .. } => self.ended(*process, "start_failed"),
            Report::ProcessStarting { process, incarnation } if *incarnation > Incarnation(1) => {
                let cause = self.restart_causes.lock().remove(process).unwrap_or("unknown");
                self.restarts.get_or_create(&Cause { cause }).inc();
            }
            Report::ProcessRecycled { reason, .. } => {
                self.recycles.get_or_create(&Cause { cause: reason.as_str() }).inc();
            }
            _ => {}
        }
    }

    /// The first cause wins: a process that was killed exits afterwards.
    fn ended(&self, process: ProcessId, cause: &'static str) {
        self.restart_causes.lock().entry(process).or_insert(cause);
    }
}

fn exit_cause(exit: &Exit) -> &'static str {
    match exit.status {
        _ if exit.host_oom => "oom",
        ExitReason::Signal(_) => "signal",
        ExitReason::Code(_) => "exit",
        ExitReason::Unknown => "unknown",
    }
}
