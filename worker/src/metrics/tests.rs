use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::core::JobId;
use crate::core::snapshot::{JobCounts, ProcessView, SlotCounts};

fn process(device: &str) -> ProcessView {
    ProcessView {
        id: ProcessId(0),
        epoch: Epoch(1),
        phase: "serving",
        pid: Some(1),
        device: Some(device.to_owned()),
        busy: 2,
        device_memory: None,
        last_exit: None,
    }
}

fn snapshot(device: &str) -> Snapshot {
    Snapshot {
        state: WorkerState::Running,
        jobs: JobCounts { in_queue: 2, ..JobCounts::default() },
        slots: SlotCounts { ready: 1, busy: 1, lingering: 1, ..SlotCounts::default() },
        processes: vec![process(device)],
        manifest: Some(Arc::new(Manifest {
            name: "echo".into(),
            version: "1.2.3".into(),
            idempotent: false,
            streams: false,
            input_schema: json!(true),
            output_schema: json!(true),
            chunk_schema: None,
        })),
        ..Snapshot::default()
    }
}

/// A job from beginning to end.
fn run_job(metrics: &Metrics, id: usize, status: JobStatus, error: Option<ErrorKind>) {
    let job = JobId::from(format!("job-{id}"));
    metrics.observe(&Report::JobTaken { job: job.clone() });
    metrics.observe(&Report::JobStarted { job: job.clone(), attempt: 1, waited: Duration::from_millis(20) });
    metrics.observe(&Report::JobFinished {
        job: job.clone(),
        status,
        error: error.map(|kind| ErrorReport { kind, message: format!("about {id}"), traceback: String::new() }),
        run_time: Duration::from_millis(300),
        device: Some("cuda:0".into()),
        records: BTreeMap::new(),
    });
    if status != JobStatus::Cancelled {
        metrics.observe(&Report::JobDelivered { job, accepted: status != JobStatus::Failed });
    }
}

fn process_life(metrics: &Metrics, epoch: u32, status: ExitReason, host_oom: bool) {
    let process = ProcessId(0);
    metrics.observe(&Report::ProcessStarting { process, epoch: Epoch(epoch) });
    let exit = Exit { status, host_oom, last_lines: Vec::new() };
    metrics.observe(&Report::ProcessExited { process, exit, expected: false });
}

/// The text with its samples in a fixed order below each description.
fn sorted(metrics: &Metrics) -> String {
    let text = metrics.encode().unwrap();
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        match blocks.last_mut() {
            Some(block) if !line.starts_with("# HELP") && line != "# EOF" => block.push(line),
            _ => blocks.push(vec![line]),
        }
    }
    for block in &mut blocks {
        let samples = block.iter().position(|line| !line.starts_with('#')).unwrap_or(block.len());
        // Buckets keep their order because the sort is stable and looks at what stands before `le` only.
        block[samples..].sort_by_key(|line| line.split("le=").next());
    }
    blocks.concat().join("\n")
}

#[test]
fn golden_text() {
    let metrics = Metrics::new();
    metrics.publish(&snapshot("cuda:0"));
    run_job(&metrics, 1, JobStatus::Completed, None);
    run_job(&metrics, 2, JobStatus::Failed, Some(ErrorKind::Oom));
    run_job(&metrics, 3, JobStatus::TimedOut, Some(ErrorKind::Timeout));
    run_job(&metrics, 4, JobStatus::Cancelled, None);
    process_life(&metrics, 1, ExitReason::Signal(11), false);
    process_life(&metrics, 2, ExitReason::Signal(9), true);
    process_life(&metrics, 3, ExitReason::Code(1), false);
    metrics.observe(&Report::SlotReady {
        process: ProcessId(0),
        slot: 0,
        device: "cuda:0".into(),
        load_time: Duration::from_secs(4),
    });
    metrics.poll(&PollAnswer::Nothing);
    metrics.poll(&PollAnswer::Failed { retry_after: Duration::ZERO });
    metrics.heartbeat(HeartbeatOutcome::Ok);
    insta::assert_snapshot!(sorted(&metrics));
}

#[test]
fn series_do_not_grow_with_jobs_or_restarts() {
    let metrics = Metrics::new();
    metrics.publish(&snapshot("cpu"));
    let work = |from: usize| {
        for id in from..from + 50 {
            run_job(&metrics, id, JobStatus::Completed, None);
            run_job(&metrics, id, JobStatus::Failed, Some(ErrorKind::InferenceError));
            run_job(&metrics, id, JobStatus::TimedOut, Some(ErrorKind::Timeout));
            process_life(&metrics, 2, ExitReason::Signal(i32::try_from(id).unwrap()), false);
            metrics.publish(&snapshot(&format!("a made up device {id}")));
        }
        metrics.encode().unwrap().lines().count()
    };
    assert_eq!(work(0), work(50));
}

#[test]
fn a_killed_process_is_restarted_because_it_was_killed() {
    let metrics = Metrics::new();
    let process = ProcessId(0);
    metrics.observe(&Report::ProcessStarting { process, epoch: Epoch(1) });
    metrics.observe(&Report::ProcessKilled { process, reason: "no answer".into() });
    let exit = Exit { status: ExitReason::Signal(9), host_oom: false, last_lines: Vec::new() };
    metrics.observe(&Report::ProcessExited { process, exit, expected: true });
    metrics.observe(&Report::ProcessStarting { process, epoch: Epoch(2) });
    let text = metrics.encode().unwrap();
    assert!(text.contains("runpod_worker_handler_restarts_total{cause=\"killed\"} 1\n"), "{text}");
    assert_eq!(text.matches("restarts_total{").count(), 1);
}

#[test]
fn a_second_run_is_no_second_job() {
    let metrics = Metrics::new();
    for attempt in [1, 2] {
        metrics.observe(&Report::JobStarted { job: "a".into(), attempt, waited: Duration::ZERO });
    }
    assert!(metrics.encode().unwrap().contains("runpod_jobs_total{status=\"in_progress\"} 1\n"));
}

#[test]
fn each_device_has_its_own_gauge() {
    let metrics = Metrics::new();
    let mut view = snapshot("cuda:0");
    view.processes.extend([process("cuda:1"), process("cuda:1")]);
    metrics.publish(&view);
    let text = metrics.encode().unwrap();
    for line in ["executor_inflight{device=\"cuda:0\"} 2\n", "executor_inflight{device=\"cuda:1\"} 4\n"] {
        assert!(text.contains(line), "{text}");
    }
}
