//! One log line for each report of the core.

use std::collections::BTreeMap;
use std::time::Duration;

use runpod_handler_protocol::{CheckReport, CheckStatus, ErrorReport};
use tracing::{debug, error, info, warn};

use runpod_worker_core::{Exit, JobId, JobStatus, Report};

/// Writes one line about a report.
///
/// `Started.` and `Finished.` at INFO frame each job, because the platform's log views filter on them. `Finished.` is
/// written when the platform has the result (or when nothing is to be posted), not when the handler is done.
pub(crate) fn log(report: &Report) {
    match report {
        Report::JobTaken { job, .. } => debug!(%job, "Taken."),
        Report::DuplicateJob { job } => warn!(%job, "The queue sent this job again. It is not run twice."),
        Report::JobRejected { job } => {
            warn!(%job, "A job arrived during shutdown and is rejected.");
        }
        Report::JobStarted { job, attempt, waited } => {
            info!(%job, attempt, waited_ms = millis(*waited), "Started.");
        }
        Report::JobBegun { job, waited } => {
            debug!(%job, waited_ms = millis(*waited), "The handler has begun with the job.");
        }
        Report::BatchBegun { process, batch } => debug!(
            process = process.0,
            jobs = batch.jobs,
            cost = batch.cost,
            closed_by = batch.closed_by.as_str(),
            "A batch has begun."
        ),
        Report::StepsTaken { process, steps } => {
            debug!(
                process = process.0,
                steps = steps.steps,
                advanced = steps.advanced,
                ms = steps.millis,
                "Steps were taken."
            );
        }
        Report::JobRetried { job, reason } => warn!(%job, reason, "The job will be run again."),
        Report::JobStopping { job, reason } => info!(%job, reason, "The job is asked to stop."),
        Report::JobFinished { job, status, error, run_time, records, .. } => {
            job_finished(job, *status, error.as_ref(), *run_time, records);
        }
        Report::JobDelivered { job, accepted: true } => info!(%job, "Finished."),
        Report::JobDelivered { job, accepted: false } => {
            error!(%job, "The queue refused the result for good.");
        }
        Report::LateMessage { job } => debug!(%job, "A message came after the end of its job and is dropped."),
        Report::ProcessStarting { process, incarnation } => {
            info!(process = process.0, start = incarnation.0, "Starting the handler process.");
        }
        Report::StartPhase { process, phase, time } => {
            debug!(process = process.0, phase = phase.as_str(), ms = millis(*time), "A phase of the start has ended.");
        }
        Report::Loading { process, stage, done, total } => {
            debug!(process = process.0, stage, done, total, "Loading.");
        }
        Report::SlotReady { process, slot, device, load_time } => {
            info!(process = process.0, slot, device, load_ms = millis(*load_time), "A slot is ready.");
        }
        Report::Checked { process, check } => checked(process.0, check),
        Report::ProcessRecycled { process, reason } => {
            info!(process = process.0, reason = reason.as_str(), "The handler process is recycled between jobs.");
        }
        Report::ConcurrencyChanged { process, before, after } => {
            debug!(process = process.0, before, after, "The handler runs another number of jobs at once.");
        }
        Report::ProcessKilled { process, reason } => {
            error!(process = process.0, reason, "The handler process is being killed.");
        }
        Report::ProcessExited { process, exit, expected } => process_exited(process.0, exit, *expected),
        Report::StartFailed { process, reason, retry_in: Some(pause) } => {
            error!(
                process = process.0,
                reason,
                retry_ms = millis(*pause),
                "The handler process did not start. It is started again."
            );
        }
        Report::StartFailed { process, reason, retry_in: None } => {
            error!(process = process.0, reason, "The handler process did not start. It is not started again.");
        }
        Report::UndeliveredFound { jobs } => {
            info!(jobs, "There are undelivered results of an earlier run. They are delivered before any job is taken.");
        }
        Report::UndeliveredLate { jobs } => {
            warn!(jobs, "Undelivered results of an earlier run are still not accepted. Jobs are taken meanwhile.");
        }
        Report::GpuSlowdowns { gpus } if gpus.is_empty() => info!("No GPU is slowed down any more."),
        Report::GpuSlowdowns { gpus } => {
            for gpu in gpus {
                warn!("{gpu}. Jobs may take longer.");
            }
        }
        Report::Draining { reason } => info!(reason, "Draining: running jobs are finished, no more jobs are taken."),
        Report::ShutdownOverrun { part } => {
            warn!(part, "A part of the shutdown took longer than its limit and was cut short.");
        }
    }
}

fn checked(process: usize, check: &CheckReport) {
    let (name, detail) = (check.name.as_str(), check.detail.as_str());
    match check.status {
        CheckStatus::Ok => info!(process, check = name, detail, "Check passed."),
        CheckStatus::Skipped => debug!(process, check = name, detail, "Check skipped."),
        CheckStatus::Failed => {
            error!(process, check = name, detail, fix = check.fix, "Check failed. No job is taken.");
        }
    }
}

fn job_finished(
    job: &JobId,
    status: JobStatus,
    error: Option<&ErrorReport>,
    run_time: Duration,
    records: &BTreeMap<String, f64>,
) {
    let run_ms = millis(run_time);
    // Formatted only if the line is written.
    let records = (!records.is_empty()).then(|| tracing::field::debug(records));
    match (status, error) {
        (JobStatus::Completed, _) => info!(%job, run_ms, records, "Completed. Delivering the result."),
        (JobStatus::Failed | JobStatus::TimedOut, Some(report)) => {
            let (kind, reason) = (report.kind.as_str(), report.message.as_str());
            let traceback = (!report.traceback.is_empty()).then_some(report.traceback.as_str());
            // A mistake of the caller is not an error of this worker.
            if report.kind.is_caller_mistake() {
                warn!(%job, kind, reason, run_ms, "Rejected by the handler. Delivering the error.");
            } else {
                error!(%job, kind, reason, run_ms, records, traceback, "Failed. Delivering the error.");
            }
        }
        (JobStatus::Failed | JobStatus::TimedOut, None) => {
            error!(%job, kind = status.as_str(), run_ms, "Failed. Delivering the error.");
        }
        // Nothing is posted for these, so this is their last line.
        (JobStatus::Cancelled, _) => info!(%job, status = status.as_str(), run_ms, "Finished."),
        (JobStatus::HandedBack, _) => {
            warn!(%job, status = status.as_str(), run_ms, "Handed back to the queue.");
        }
    }
}

fn process_exited(process: usize, exit: &Exit, expected: bool) {
    let status = exit.status.to_string();
    let last_lines = (!exit.last_lines.is_empty()).then(|| exit.last_lines.join("\n"));
    if expected {
        info!(process, status, "The handler process has exited.");
    } else if exit.host_oom {
        error!(
            process,
            status,
            last_lines,
            "The kernel's out-of-memory killer has killed the handler process: give the container more memory, or use less."
        );
    } else {
        error!(process, status, last_lines, "The handler process has crashed.");
    }
}

/// Whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use runpod_handler_protocol::ErrorKind;

    use super::*;
    use crate::logs::LogFormat;
    use crate::logs::capture::Capture;
    use runpod_worker_core::{
        ExitReason, GpuSlowdown, Incarnation, JobCost, ProcessId, RecycleReason, SlowdownReason, StartPhase,
    };

    fn job() -> JobId {
        JobId::from("j-1")
    }

    fn finished(status: JobStatus, error: Option<(ErrorKind, &str)>) -> Report {
        Report::JobFinished {
            job: job(),
            status,
            error: error.map(|(kind, message)| ErrorReport { kind, message: message.into(), traceback: String::new() }),
            run_time: Duration::from_millis(250),
            tenant: None,
            stop_time: None,
            cost: JobCost { gpu_time: Duration::from_millis(250), dollars: None },
            device: None,
            records: BTreeMap::new(),
        }
    }

    #[test]
    fn every_report_is_one_line() {
        let (process, reason) = (ProcessId(0), || "because".to_owned());
        let died = |host_oom, expected| Report::ProcessExited {
            process,
            exit: Exit { status: ExitReason::Signal(9), host_oom, last_lines: vec!["a".into(), "b".into()] },
            expected,
        };
        let reports = [
            Report::JobTaken { job: job(), tenant: None },
            Report::DuplicateJob { job: job() },
            Report::JobRejected { job: job() },
            Report::JobStarted { job: job(), attempt: 1, waited: Duration::from_millis(3) },
            Report::JobRetried { job: job(), reason: reason() },
            Report::JobStopping { job: job(), reason: reason() },
            finished(JobStatus::Completed, None),
            finished(JobStatus::Failed, Some((ErrorKind::Validation, "input.n: expected a number"))),
            finished(JobStatus::Failed, Some((ErrorKind::InferenceError, "shape mismatch"))),
            finished(JobStatus::TimedOut, Some((ErrorKind::Timeout, "the deadline passed"))),
            finished(JobStatus::Cancelled, None),
            finished(JobStatus::HandedBack, None),
            Report::JobDelivered { job: job(), accepted: true },
            Report::JobDelivered { job: job(), accepted: false },
            Report::LateMessage { job: job() },
            Report::ProcessStarting { process, incarnation: Incarnation(1) },
            Report::StartPhase { process, phase: StartPhase::Load, time: Duration::from_secs(3) },
            Report::Loading { process, stage: "weights".into(), done: 1, total: 2 },
            Report::SlotReady { process, slot: 0, device: "cpu".into(), load_time: Duration::from_secs(1) },
            Report::Checked { process, check: CheckReport::ok("memory", "12 GiB available") },
            Report::Checked { process, check: CheckReport::failed("gpu_memory", "too small", "use another GPU") },
            Report::Checked { process, check: CheckReport::skipped("cuda", "--device cpu was asked for") },
            Report::ProcessRecycled { process, reason: RecycleReason::HostMemory },
            Report::ConcurrencyChanged { process, before: 8, after: 16 },
            Report::ProcessKilled { process, reason: reason() },
            died(false, true),
            died(false, false),
            died(true, false),
            Report::StartFailed { process, reason: reason(), retry_in: Some(Duration::from_secs(2)) },
            Report::StartFailed { process, reason: reason(), retry_in: None },
            Report::GpuSlowdowns {
                gpus: vec![GpuSlowdown {
                    gpu: 1,
                    reasons: vec![SlowdownReason::HwThermal, SlowdownReason::HwSlowdown],
                }],
            },
            Report::GpuSlowdowns { gpus: Vec::new() },
            Report::Draining { reason: reason() },
            Report::UndeliveredFound { jobs: 3 },
            Report::UndeliveredLate { jobs: 1 },
            Report::ShutdownOverrun { part: "outbox" },
        ];
        let (log_text, _guard) = Capture::start(LogFormat::Text, "w-1");
        for report in &reports {
            log(report);
        }
        let text = log_text.text();
        assert_eq!(text.lines().count(), reports.len());
        insta::assert_snapshot!(text);
    }

    #[test]
    fn finished_waits_for_the_platform() {
        let (log_text, _guard) = Capture::start(LogFormat::Json, "w-1");
        log(&finished(JobStatus::Completed, None));
        assert!(!log_text.text().contains(r#""message":"Finished.""#));
        log(&Report::JobDelivered { job: job(), accepted: true });
        assert!(log_text.text().contains(r#"{"requestId":"j-1","message":"Finished.","level":"INFO""#));
    }
}
