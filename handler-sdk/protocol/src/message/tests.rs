use serde_json::json;

use super::*;
use crate::batch::{ClosedBy, LimitsNow};
use crate::check::CheckReport;

fn to_handler() -> Vec<ToHandler> {
    let job = || "job-1".to_owned();
    vec![
        ToHandler::Hello { protocol: 1, worker_version: "0.1.0".into(), processes: 2, batch_reports: true },
        ToHandler::Load { worker_id: "w1".into(), slots: 2, device: "auto".into(), chunk_window: 32 },
        ToHandler::Run { job: job(), attempt: 1, slot: 0, deadline_ms: 600_000, traceparent: None },
        ToHandler::Run { job: job(), attempt: 2, slot: 1, deadline_ms: 0, traceparent: Some("00-ab-cd-01".into()) },
        ToHandler::Stop { job: job(), attempt: 1, reason: StopReason::Deadline },
        ToHandler::Stop { job: job(), attempt: 1, reason: StopReason::Cancelled },
        ToHandler::Stop { job: job(), attempt: 1, reason: StopReason::Drain },
        ToHandler::ChunkAck { job: job(), attempt: 1, seq: 7 },
        ToHandler::Ping { seq: 3 },
        ToHandler::Check(CheckOrder {
            worker_id: "w1".into(),
            slots: 2,
            device: "cuda".into(),
            system: true,
            gpu_memory: false,
            min_cuda: (11, 8),
            min_gpu_memory: 1 << 30,
            benchmark_limit_ms: 2000,
            gpu_limit_ms: 30_000,
        }),
        ToHandler::Probe { slot: 1 },
        ToHandler::Shutdown,
    ]
}

fn to_supervisor() -> Vec<ToSupervisor> {
    let job = || "job-1".to_owned();
    vec![
        ToSupervisor::Hello { protocol: 1, sdk_version: "0.1.0".into() },
        ToSupervisor::Loading { slot: 0, stage: "weights".into(), done: 3, total: 10 },
        ToSupervisor::Loaded { slot: 0, device: "cuda:0".into(), millis: 812, warm_up_millis: 300 },
        ToSupervisor::LoadFailed { slot: 0 },
        ToSupervisor::Started { job: job(), attempt: 1, model: None },
        ToSupervisor::Started { job: job(), attempt: 1, model: Some(2) },
        ToSupervisor::Chunk { job: job(), attempt: 1, seq: 1 },
        ToSupervisor::Progress { job: job(), attempt: 1 },
        ToSupervisor::Done { job: job(), attempt: 1, refresh: false, records: BTreeMap::new() },
        ToSupervisor::Done { job: job(), attempt: 1, refresh: true, records: [("tokens".to_owned(), 12.0)].into() },
        ToSupervisor::Failed { job: job(), attempt: 1, refresh: false, reloading: false },
        ToSupervisor::Failed { job: job(), attempt: 1, refresh: true, reloading: true },
        ToSupervisor::Pong { seq: 3 },
        ToSupervisor::Checked,
        ToSupervisor::Batch(BatchReport {
            model: 0,
            jobs: 8,
            cost: 900,
            closed_by: ClosedBy::Cost,
            limits: LimitsNow { budget: Some(1000), max_cost: Some(4000), max_wait_ms: None },
        }),
        ToSupervisor::Steps(StepReport {
            model: 1,
            steps: 40,
            advanced: 600,
            millis: 1000,
            cost: 0,
            limits: LimitsNow { budget: None, max_cost: None, max_wait_ms: Some(5) },
        }),
        ToSupervisor::Probed { slot: 1, ok: false },
        ToSupervisor::Concurrency { jobs: 64 },
        ToSupervisor::Blocked,
    ]
}

#[test]
fn the_wire_form_of_every_message_stays_the_same() {
    insta::assert_json_snapshot!("to_handler", to_handler());
    insta::assert_json_snapshot!("to_supervisor", to_supervisor());
    insta::assert_json_snapshot!(
        "payloads",
        json!([
            ErrorReport {
                kind: ErrorKind::Validation,
                message: "input.count: expected a number".into(),
                traceback: String::new(),
            },
            Manifest {
                name: "echo".into(),
                version: "1.2.3".into(),
                idempotent: true,
                streams: true,
                input_schema: json!({"type": "object"}),
                output_schema: json!(true),
                chunk_schema: Some(json!({"type": "string"})),
                max_batch_items: Some(32),
                max_waiting_items: Some(8),
                max_concurrency: None,
            },
            [
                CheckReport::ok("memory", "12 GiB available"),
                CheckReport::failed("disk", "3 % of / is free", "remove files"),
                CheckReport::skipped("network", "not asked for"),
            ],
        ])
    );
}

#[test]
fn every_message_survives_writing_and_reading() {
    for message in to_handler() {
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<ToHandler>(&text).unwrap(), message);
    }
    for message in to_supervisor() {
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<ToSupervisor>(&text).unwrap(), message);
    }
}

#[test]
fn an_error_kind_has_the_same_name_everywhere() {
    for kind in ErrorKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.as_str()));
    }
}

#[test]
fn a_process_has_a_slot_for_every_job_that_its_models_run_and_for_those_that_wait() {
    let manifest = |max_batch_items, max_waiting_items| Manifest {
        name: String::new(),
        version: String::new(),
        idempotent: false,
        streams: false,
        input_schema: json!(true),
        output_schema: json!(true),
        chunk_schema: None,
        max_batch_items,
        max_waiting_items,
        max_concurrency: None,
    };
    let slots = |items, waiting, models| manifest(items, waiting).slots(models);
    assert_eq!((slots(None, None, 1), slots(None, None, 3)), (Ok(1), Ok(3)));
    assert_eq!((slots(Some(8), None, 1), slots(Some(8), None, 3)), (Ok(16), Ok(32)));
    assert_eq!((slots(Some(8), Some(2), 1), slots(Some(8), Some(2), 3)), (Ok(10), Ok(26)));
    assert_eq!(slots(Some(MAX_SLOTS), Some(0), 1), Ok(MAX_SLOTS));
    for (items, waiting, models) in
        [(MAX_SLOTS, 1, 1), (u32::MAX, 1, 2), (1, u32::MAX, 1), (1024, 1024, 8), (u32::MAX, u32::MAX, u32::MAX)]
    {
        let error = slots(Some(items), Some(waiting), models).unwrap_err().to_string();
        assert!(error.contains(&format!("{items} jobs in each of {models} models")), "{error}");
        assert!(error.contains("at most 8192"), "{error}");
    }
    let concurrent = |jobs| Manifest { max_concurrency: Some(jobs), ..manifest(None, None) };
    assert_eq!((concurrent(100).slots(3), concurrent(100).models(3)), (Ok(100), 1), "all jobs share one model");
    assert_eq!((concurrent(0).slots(1), concurrent(u32::MAX).slots(1)), (Ok(1), Ok(MAX_CONCURRENCY)));
}
