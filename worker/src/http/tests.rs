//! Every document in every state.

use runpod_handler_protocol::{BatchReport, ClosedBy, ErrorKind, LimitsNow, StepReport};
use serde_json::{Value, json};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::heartbeat::Pulse;
use crate::outbox::{self, OutboxLimits};
use crate::queue::{PostReply, ResultSink};
use crate::sensors::gpu::Gpus;
use crate::sensors::host::Host;
use runpod_worker_core::{
    BatchTotals, BatchingView, DeliveryEvent, Event, Exit, ExitReason, Incarnation, JobCounts, PollView, Price,
    ProcessId, ProcessView, SlotCounts, StepTotals, Time, Versions, WorkerState,
};

struct NoQueue;

impl ResultSink for NoQueue {
    async fn post_final(&self, _: &runpod_worker_core::JobId, _: crate::queue::ResultBody, _: bool) -> PostReply {
        PostReply::NoRoute
    }

    async fn post_chunk(&self, _: &runpod_worker_core::JobId, _: bytes::Bytes) -> PostReply {
        PostReply::NoRoute
    }

    async fn post_progress(&self, _: &runpod_worker_core::JobId, _: bytes::Bytes) -> PostReply {
        PostReply::NoRoute
    }
}

/// A process that has run out of memory in a batch, and reports steps too.
fn batching() -> BatchingView {
    let limits = LimitsNow { budget: Some(512), max_cost: Some(2048), max_wait_ms: Some(5) };
    let batch = BatchReport { model: 0, jobs: 3, cost: 300, closed_by: ClosedBy::WaitOver, limits };
    let steps = StepReport { model: 0, steps: 40, advanced: 120, millis: 500, cost: 300, limits };
    BatchingView {
        max_jobs: 8,
        limits: Some(limits),
        running: 3,
        waiting: 2,
        batches: BatchTotals { count: 2, jobs: 7, last: Some(batch) },
        steps: StepTotals { count: 40, advanced: 120, last: Some(steps) },
    }
}

fn snapshot(state: WorkerState) -> Snapshot {
    let exit = Exit { status: ExitReason::Signal(11), host_oom: false, last_lines: vec!["user's words".into()] };
    Snapshot {
        state,
        reason: (state == WorkerState::Unhealthy).then(|| "the handler crashed 5 times".to_owned()),
        serving: !matches!(state, WorkerState::Initializing | WorkerState::Unhealthy),
        failures: [(ErrorKind::Oom, 1)].into(),
        poll: PollView { in_flight: true, blocked_by: None, last: Some((Time::default(), "empty")) },
        versions: Arc::new(Versions { sdk: Some("0.1.0".into()), libtorch: Some("2.11.0".into()), cuda: None }),
        price: (state == WorkerState::Running).then_some(Price { per_hour: 1.2, processes: 1 }),
        jobs: JobCounts { completed: 31, failed: 1, retried: 2, in_progress: 1, ..JobCounts::default() },
        slots: SlotCounts { busy: 1, ready: 3, ..SlotCounts::default() },
        processes: vec![ProcessView {
            id: ProcessId(0),
            incarnation: Incarnation(3),
            phase: "serving",
            pid: Some(4711),
            device: Some("cuda:0".into()),
            slots: 4,
            busy: 1,
            device_memory: None,
            batching: (state == WorkerState::Running).then(batching),
            last_exit: Some(exit),
        }],
        ..Snapshot::default()
    }
}

/// A machine that reports nothing.
fn nothing_known() -> Sensors {
    Sensors::new(Gpus::absent(), Host::absent(), Vec::new())
}

/// A server in this state: its address, and what keeps it alive.
async fn server(state: WorkerState) -> (String, watch::Sender<Snapshot>, CancellationToken) {
    let (sender, snapshots) = watch::channel(snapshot(state));
    let (events, mut inbox) = tokio::sync::mpsc::channel::<Event>(8);
    tokio::spawn(async move { while let Some(Event::Delivery(DeliveryEvent::Full(_))) = inbox.recv().await {} });
    let identity = Identity { worker_id: "w1".into(), hostname: "h1".into(), endpoint_id: None };
    let outbox = outbox::spawn(Arc::new(NoQueue), identity.clone(), OutboxLimits::default(), events);
    let state = HttpState {
        identity: Arc::new(identity),
        snapshots,
        metrics: Arc::new(Metrics::default()),
        outbox,
        heartbeat: HeartbeatMonitor::default(),
        pulse: Arc::new(PulseWatch::new(Pulse::default())),
        sensors: nothing_known(),
        started: Instant::now(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let over = CancellationToken::new();
    let (http, _) = super::server("test", 64);
    tokio::spawn(serve(http, listener, router(state), over.clone()));
    (address, sender, over)
}

async fn get(url: String) -> (u16, String) {
    let reply = reqwest::get(url).await.unwrap();
    (reply.status().as_u16(), reply.text().await.unwrap())
}

#[tokio::test]
async fn health_in_every_state() {
    let schema = jsonschema::validator_for(&health_schema()).unwrap();
    for state in WorkerState::ALL {
        let (address, _sender, _over) = server(state).await;
        let (status, text) = get(format!("{address}/health")).await;
        assert_eq!(status, 200);
        assert!(!text.contains("user's words"), "{text}");
        let mut health: Value = serde_json::from_str(&text).unwrap();
        let problems: Vec<String> = schema.iter_errors(&health).map(|error| error.to_string()).collect();
        assert!(problems.is_empty(), "{problems:?} in {text}");
        // It differs from run to run.
        let ago = health["worker"]["lastPoll"]["secondsAgo"].take();
        assert!(ago.is_f64(), "{ago}");
        insta::assert_json_snapshot!(format!("health_{}", state.as_str()), health);
    }
}

/// The shipped schema is the one of the types. `UPDATE_DOCS=1` writes it anew.
#[test]
fn docs_have_the_schema_of_the_health_document() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/health.schema.json");
    let expected = format!("{:#}\n", health_schema());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(
        found == expected,
        "docs/health.schema.json is not what the code says: run UPDATE_DOCS=1 cargo test --package runpod-worker docs"
    );
}

fn health_schema() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<health::Health>().to_value()
}

#[test]
fn a_document_that_breaks_the_schema_is_noticed() {
    let schema = jsonschema::validator_for(&health_schema()).unwrap();
    let mut health = json!({"jobs": {}, "workers": {}, "worker": {}, "runtime": {}});
    assert!(!schema.is_valid(&health));
    health["worker"]["state"] = "on fire".into();
    assert!(schema.iter_errors(&health).any(|error| error.to_string().contains("on fire")));
}

/// A worker that holds a job while its only process is being replaced after a fatal error of its GPU.
#[tokio::test]
async fn a_lost_device_turns_readiness_red_and_a_new_process_turns_it_green() {
    let (address, sender, _over) = server(WorkerState::Running).await;
    assert_eq!(get(format!("{address}/ready")).await.0, 200);
    let reason = "device_lost: CUDA error: an illegal memory access was encountered";
    sender.send_modify(|snapshot| {
        snapshot.serving = false;
        snapshot.reason = Some(reason.to_owned());
    });
    for path in ["ready", "ping"] {
        let (status, text) = get(format!("{address}/{path}")).await;
        let probe: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &probe["reason"]), (503, &json!(reason)), "{path}: {text}");
    }
    sender.send_modify(|snapshot| snapshot.serving = true);
    assert_eq!(get(format!("{address}/ready")).await.0, 200);
}

#[tokio::test]
async fn probes_in_every_state() {
    let mut table = Vec::new();
    for state in WorkerState::ALL {
        let (address, _sender, _over) = server(state).await;
        let (ready, reason) = get(format!("{address}/ready")).await;
        let (ping, said) = get(format!("{address}/ping")).await;
        assert_eq!(said.is_empty(), ping == 204, "{said}");
        let (live, _) = get(format!("{address}/live")).await;
        table.push(format!("{:<13} ready {ready} ping {ping} live {live} {reason}", state.as_str()));
    }
    insta::assert_snapshot!(table.join("\n"));
}

#[tokio::test]
async fn metrics_have_their_media_type() {
    let (address, _sender, over) = server(WorkerState::Idle).await;
    let reply = reqwest::get(format!("{address}/metrics")).await.unwrap();
    let media_type = reply.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(media_type.starts_with("application/openmetrics-text"), "{media_type}");
    assert!(reply.text().await.unwrap().ends_with("# EOF\n"));
    let request = reqwest::Client::new().get(format!("{address}/metrics")).header("accept", "text/plain;version=0.0.4");
    let reply = request.send().await.unwrap();
    assert_eq!(reply.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = reply.text().await.unwrap();
    assert!(text.contains("_total counter\n") && !text.contains("# EOF"), "{text}");
    over.cancel();
}
