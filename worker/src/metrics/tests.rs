use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use runpod_handler_protocol::{BatchReport, ClosedBy, ErrorKind, ErrorReport, LimitsNow, Manifest, StepReport};
use serde_json::json;

use super::labels::{CATEGORIES, ERROR_TYPES, category, error_type};
use super::*;
use crate::outbox::SpoolStats;
use runpod_worker_core::{
    BatchingView, Exit, ExitReason, Incarnation, JobCost, JobId, JobStatus, Price, ProcessId, StartPhase, TakenJob,
    WorkerState,
};
use runpod_worker_core::{JobCounts, ProcessView, SlotCounts};

const SECOND: Duration = Duration::from_secs(1);

fn process(device: &str) -> ProcessView {
    ProcessView {
        id: ProcessId(0),
        incarnation: Incarnation(1),
        phase: "serving",
        pid: Some(1),
        device: Some(device.to_owned()),
        slots: 1,
        busy: 2,
        device_memory: None,
        batching: None,
        last_exit: None,
    }
}

fn snapshot(device: &str) -> Snapshot {
    Snapshot {
        state: WorkerState::Running,
        jobs: JobCounts { in_queue: 2, delivering: 3, ..JobCounts::default() },
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
            max_batch_items: None,
            max_concurrency: None,
            max_waiting_items: None,
        })),
        ..Snapshot::default()
    }
}

/// A job from beginning to end, on behalf of somebody.
fn run_job_for(metrics: &Metrics, tenant: &str, id: usize, status: JobStatus, error: Option<ErrorKind>) {
    let job = JobId::from(format!("job-{id}"));
    let tenant = Some(tenant.to_owned());
    metrics.observe(&Report::JobTaken { job: job.clone(), tenant: tenant.clone() });
    metrics.observe(&Report::JobStarted { job: job.clone(), attempt: 1, waited: Duration::from_millis(20) });
    metrics.observe(&Report::JobFinished {
        job: job.clone(),
        status,
        error: error.map(|kind| ErrorReport { kind, message: format!("about {id}"), traceback: String::new() }),
        run_time: Duration::from_millis(300),
        tenant,
        stop_time: matches!(status, JobStatus::TimedOut | JobStatus::Cancelled).then_some(SECOND),
        cost: JobCost { gpu_time: Duration::from_millis(300), dollars: Some(0.0002) },
        device: Some("cuda:0".into()),
        records: match status {
            JobStatus::Completed => [("tokens".to_owned(), 12.5), (format!("own_figure_{id}"), 1.0)].into(),
            _ => BTreeMap::new(),
        },
    });
    if status != JobStatus::Cancelled {
        metrics.observe(&Report::JobDelivered { job, accepted: status != JobStatus::Failed });
    }
}

fn run_job(metrics: &Metrics, id: usize, status: JobStatus, error: Option<ErrorKind>) {
    run_job_for(metrics, "acme", id, status, error);
}

fn process_life(metrics: &Metrics, incarnation: u32, status: ExitReason, host_oom: bool) {
    let process = ProcessId(0);
    metrics.observe(&Report::ProcessStarting { process, incarnation: Incarnation(incarnation) });
    let exit = Exit { status, host_oom, last_lines: Vec::new() };
    metrics.observe(&Report::ProcessExited { process, exit, expected: false });
}

fn come_up(metrics: &Metrics) {
    let process = ProcessId(0);
    for (phase, millis) in StartPhase::ALL.into_iter().zip([2, 40, 500, 3000, 1000]) {
        metrics.observe(&Report::StartPhase { process, phase, time: Duration::from_millis(millis) });
    }
    let load_time = Duration::from_secs(4);
    metrics.observe(&Report::SlotReady { process, slot: 0, device: "cuda:0".into(), load_time });
}

fn jobs(count: usize) -> PollAnswer {
    let job = |id| TakenJob::new(JobId::from(format!("job-{id}")), Ok("{}".into()));
    PollAnswer::Jobs((0..count).map(job).collect())
}

/// A batch of three jobs after running out of memory, and forty steps.
fn run_batches(metrics: &Metrics) {
    let limits = LimitsNow { budget: Some(512), max_cost: Some(2048), max_wait_ms: None };
    let batch = BatchReport { model: 0, jobs: 3, cost: 300, closed_by: ClosedBy::Cost, limits };
    let steps = StepReport { model: 0, steps: 40, advanced: 120, millis: 1000, cost: 300, limits };
    let process = ProcessId(0);
    metrics.observe(&Report::JobBegun { job: "job-1".into(), waited: Duration::from_millis(40) });
    metrics.observe(&Report::BatchBegun { process, batch });
    metrics.observe(&Report::StepsTaken { process, steps });
    let batching =
        BatchingView { max_jobs: 8, limits: Some(limits), running: 3, waiting: 2, ..BatchingView::default() };
    let mut seen = snapshot("cuda:0");
    seen.processes[0].batching = Some(batching);
    metrics.publish(&seen);
}

/// Metrics in which every family has a series.
fn eventful() -> Metrics {
    let metrics = Metrics::default();
    let price = Price { per_hour: 3.6, processes: 1 };
    metrics.publish(&Snapshot { price: Some(price), ..snapshot("cuda:0") });
    come_up(&metrics);
    run_job(&metrics, 1, JobStatus::Completed, None);
    run_job(&metrics, 2, JobStatus::Failed, Some(ErrorKind::Oom));
    run_job(&metrics, 3, JobStatus::TimedOut, Some(ErrorKind::Timeout));
    run_job(&metrics, 4, JobStatus::Cancelled, None);
    run_job(&metrics, 5, JobStatus::Failed, Some(ErrorKind::InferenceError));
    run_job(&metrics, 6, JobStatus::Failed, Some(ErrorKind::ModelNotFound));
    run_job(&metrics, 7, JobStatus::Failed, Some(ErrorKind::Validation));
    run_batches(&metrics);
    process_life(&metrics, 1, ExitReason::Signal(11), false);
    process_life(&metrics, 2, ExitReason::Signal(9), true);
    process_life(&metrics, 3, ExitReason::Code(1), false);
    let reason = runpod_worker_core::RecycleReason::Jobs;
    metrics.observe(&Report::ProcessRecycled { process: ProcessId(0), reason });
    metrics.poll(&PollAnswer::Empty);
    metrics.poll(&PollAnswer::Failed { retry_after: Duration::ZERO, reason: String::new() });
    metrics.poll(&jobs(3));
    metrics.heartbeat(HeartbeatOutcome::Ok);
    let spool = Some(SpoolStats { results: 4, ..SpoolStats::default() });
    let outbox =
        OutboxStats { held_bytes: 100, dead_letters: 1, retries: 7, lost_chunks: 2, spool, ..OutboxStats::default() };
    metrics.sample(SECOND * 60, Some(SECOND * 3), &outbox);
    metrics
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
        // Buckets of a series keep their order because the sort is stable and does not look at `le` and the value.
        block[samples..].sort_by_key(|line| {
            let sample = line.rsplit_once(' ').map_or(*line, |(sample, _)| sample);
            let (name, labels) = sample.split_once("le=\"").unwrap_or((sample, ""));
            (name, labels.split_once('"').map(|(_, others)| others))
        });
    }
    blocks.concat().join("\n")
}

/// Names of series, without their values.
fn series(metrics: &Metrics) -> BTreeSet<String> {
    let text = metrics.encode().unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
        .collect()
}

fn has(metrics: &Metrics, line: &str) {
    let text = metrics.encode().unwrap();
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

#[test]
fn golden_text() {
    insta::assert_snapshot!(sorted(&eventful()));
}

#[test]
fn series_do_not_grow_with_jobs_tenants_or_restarts() {
    let metrics = Metrics::new(5);
    metrics.publish(&snapshot("cpu"));
    let work = |from: usize| {
        for id in from..from + 1000 {
            let tenant = format!("tenant-{id}");
            run_job_for(&metrics, &tenant, id, JobStatus::Completed, None);
            run_job_for(&metrics, &tenant, id, JobStatus::Failed, Some(ErrorKind::InferenceError));
            run_job_for(&metrics, &tenant, id, JobStatus::TimedOut, Some(ErrorKind::Timeout));
            process_life(&metrics, 2, ExitReason::Signal(i32::try_from(id).unwrap()), false);
            metrics.poll(&jobs(id % 200 + 1));
            metrics.publish(&snapshot(&format!("a made up device {id}")));
        }
        series(&metrics)
    };
    let first = work(0);
    assert_eq!(first, work(1000));
    assert!(first.len() < 1000, "{}", first.len());
    assert!(!first.iter().any(|series| series.contains("job-")), "{first:?}");
}

#[test]
fn tenants_over_the_limit_are_others() {
    let metrics = Metrics::new(2);
    for (id, tenant) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
        run_job_for(&metrics, tenant, id, JobStatus::Completed, None);
    }
    metrics.observe(&Report::JobTaken { job: "none".into(), tenant: None });
    for (tenant, count) in [("a", 2), ("b", 1), ("other", 2), ("default", 1)] {
        let labels = format!("model=\"unknown\",version=\"unknown\",tenant=\"{tenant}\"");
        has(&metrics, &format!("inference_requests_total{{{labels}}} {count}"));
    }
}

#[test]
fn the_first_failure_of_a_model_and_of_a_tenant_is_an_increase() {
    let metrics = Metrics::new(2);
    metrics.introduce(snapshot("cpu").manifest.as_deref());
    let zeros = |tenant: &str| {
        for error_type in ERROR_TYPES {
            let labels = format!("model=\"echo\",version=\"1.2.3\",error_type=\"{error_type}\",tenant=\"{tenant}\"");
            has(&metrics, &format!("inference_errors_total{{{labels}}} 0"));
        }
        let labels = format!("model=\"echo\",version=\"1.2.3\",tenant=\"{tenant}\"");
        has(&metrics, &format!("inference_duration_seconds_count{{{labels}}} 0"));
    };
    zeros("default");
    metrics.observe(&Report::JobTaken { job: "j".into(), tenant: Some("acme".into()) });
    zeros("acme");
    assert!(ErrorKind::ALL.iter().all(|kind| ERROR_TYPES.contains(&error_type(*kind))));
}

#[test]
fn every_kind_of_error_has_one_category_and_one_type() {
    let expected = [
        ("validation", "validation", "validation"),
        ("model_not_found", "validation", "model_not_found"),
        ("inference_error", "unknown", "inference_error"),
        ("oom", "oom", "inference_error"),
        ("device_lost", "unknown", "inference_error"),
        ("timeout", "timeout", "timeout"),
        ("cancelled", "unknown", "inference_error"),
        ("crashed", "unknown", "inference_error"),
        ("unresponsive", "unknown", "inference_error"),
        ("protocol", "unknown", "inference_error"),
        ("load", "unknown", "inference_error"),
        ("delivery", "unknown", "inference_error"),
        ("infra", "unknown", "inference_error"),
    ];
    assert_eq!(ErrorKind::ALL.map(|kind| (kind.as_str(), category(kind), error_type(kind))), expected);
    for kind in ErrorKind::ALL {
        assert!(CATEGORIES.contains(&category(kind)));
        let metrics = Metrics::default();
        run_job(&metrics, 1, JobStatus::Failed, Some(kind));
        has(&metrics, &format!("runpod_job_failures_total{{kind=\"{kind}\"}} 1"));
        has(&metrics, &format!("runpod_job_errors_total{{category=\"{}\"}} 1", category(kind)));
        let labels =
            format!("model=\"unknown\",version=\"unknown\",error_type=\"{}\",tenant=\"acme\"", error_type(kind));
        has(&metrics, &format!("inference_errors_total{{{labels}}} 1"));
    }
}

/// The finite bounds of the buckets of each histogram.
fn bounds(metrics: &Metrics) -> BTreeMap<String, Vec<f64>> {
    let mut bounds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for series in series(metrics) {
        if let Some((name, labels)) = series.split_once("_bucket{") {
            let bound = labels.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
            bounds.entry(name.to_owned()).or_default().insert(bound.to_owned());
        }
    }
    let finite = |all: BTreeSet<String>| {
        let mut finite: Vec<f64> =
            all.iter().filter_map(|bound| bound.parse().ok()).filter(|b: &f64| b.is_finite()).collect();
        finite.sort_by(f64::total_cmp);
        finite
    };
    bounds.into_iter().map(|(name, all)| (name, finite(all))).collect()
}

#[test]
fn no_histogram_but_the_prescribed_one_ends_before_the_longest_job_the_dearest_or_the_largest_answer() {
    let bounds = bounds(&eventful());
    assert!(bounds.len() >= 9, "{bounds:?}");
    for (name, bounds) in bounds {
        let least = match name.as_str() {
            "inference_latency_seconds" => {
                assert_eq!(bounds, [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0]);
                continue;
            }
            name if name.ends_with("_seconds") => 604_800.0,
            "runpod_job_cost_dollars" => 1000.0,
            "runpod_worker_jobs_per_poll" => f64::from(runpod_handler_protocol::MAX_CONCURRENCY),
            "runpod_batch_size" => 1024.0,
            unknown => panic!("say how far {unknown} must reach"),
        };
        assert!(bounds.last().is_some_and(|last| *last >= least), "{name} ends at {:?}", bounds.last());
        // A quantile lies anywhere in its bucket.
        let coarse = bounds.windows(2).find(|pair| pair[0] >= 1.0 && pair[1] / pair[0] > 10.0);
        assert_eq!(coarse, None, "{name}");
    }
}

#[test]
fn jobs_of_a_quarter_of_a_minute_and_of_an_hour_are_told_apart() {
    let metrics = Metrics::default();
    for seconds in [15, 3500] {
        metrics.observe(&Report::JobFinished {
            job: "long".into(),
            status: JobStatus::Completed,
            error: None,
            run_time: SECOND * seconds,
            tenant: None,
            stop_time: None,
            cost: JobCost { gpu_time: SECOND * seconds, dollars: Some(0.1) },
            device: None,
            records: BTreeMap::new(),
        });
    }
    let labels = "model=\"unknown\",version=\"unknown\",tenant=\"default\"";
    for (bound, jobs) in [("10.0", 0), ("20.0", 1), ("1800.0", 1), ("3600.0", 2)] {
        has(&metrics, &format!("inference_duration_seconds_bucket{{le=\"{bound}\",{labels}}} {jobs}"));
        has(&metrics, &format!("runpod_job_duration_seconds_bucket{{le=\"{bound}\"}} {jobs}"));
    }
    has(&metrics, &format!("inference_latency_seconds_bucket{{le=\"10.0\",{labels}}} 0"));
}

#[test]
fn a_killed_process_is_restarted_because_it_was_killed() {
    let metrics = Metrics::default();
    let process = ProcessId(0);
    metrics.observe(&Report::ProcessStarting { process, incarnation: Incarnation(1) });
    metrics.observe(&Report::ProcessKilled { process, reason: "no answer".into() });
    let exit = Exit { status: ExitReason::Signal(9), host_oom: false, last_lines: Vec::new() };
    metrics.observe(&Report::ProcessExited { process, exit, expected: true });
    metrics.observe(&Report::ProcessStarting { process, incarnation: Incarnation(2) });
    let text = metrics.encode().unwrap();
    assert!(text.contains("runpod_worker_handler_restarts_total{cause=\"killed\"} 1\n"), "{text}");
    let restarts: u64 = text
        .lines()
        .filter(|line| line.starts_with("runpod_worker_handler_restarts_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    assert_eq!(restarts, 1);
}

#[test]
fn a_second_run_is_no_second_job() {
    let metrics = Metrics::default();
    for attempt in [1, 2] {
        metrics.observe(&Report::JobStarted { job: "a".into(), attempt, waited: Duration::ZERO });
    }
    has(&metrics, "runpod_jobs_total{status=\"in_progress\"} 1");
}

#[test]
fn each_device_has_its_own_gauge() {
    let metrics = Metrics::default();
    let mut view = snapshot("cuda:0");
    view.processes.extend([process("cuda:1"), process("cuda:1")]);
    metrics.publish(&view);
    has(&metrics, "executor_inflight{device=\"cuda:0\"} 2");
    has(&metrics, "executor_inflight{device=\"cuda:1\"} 4");
}

#[test]
fn what_is_not_known_is_absent() {
    let metrics = Metrics::default();
    metrics.publish(&snapshot("cpu"));
    metrics.sample(SECOND, None, &OutboxStats::default());
    let found = series(&metrics);
    for absent in ["dollars", "heartbeat_age"] {
        assert!(!found.iter().any(|series| series.contains(absent)), "{absent} in {found:?}");
    }
}

mod docs;
