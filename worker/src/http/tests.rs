//! Every document in every state.

use serde_json::Value;

use super::*;
use crate::core::{
    DeliveryEvent, Epoch, Event, Exit, ExitReason, JobCounts, ProcessId, ProcessView, SlotCounts, WorkerState,
};
use crate::outbox::{self, OutboxLimits};
use crate::queue::{PostReply, ResultSink};
use crate::telemetry::gpu::Gpus;
use crate::telemetry::host::Host;

struct NoQueue;

impl ResultSink for NoQueue {
    async fn post_final(&self, _: &crate::core::JobId, _: bytes::Bytes, _: bool) -> PostReply {
        PostReply::NoRoute
    }

    async fn post_chunk(&self, _: &crate::core::JobId, _: bytes::Bytes) -> PostReply {
        PostReply::NoRoute
    }

    async fn post_progress(&self, _: &crate::core::JobId, _: bytes::Bytes) -> PostReply {
        PostReply::NoRoute
    }
}

fn snapshot(state: WorkerState) -> Snapshot {
    let exit = Exit { status: ExitReason::Signal(11), host_oom: false, last_lines: vec!["user's words".into()] };
    Snapshot {
        state,
        reason: (state == WorkerState::Unhealthy).then(|| "the handler crashed 5 times".to_owned()),
        jobs: JobCounts { completed: 31, failed: 1, retried: 2, in_progress: 1, ..JobCounts::default() },
        slots: SlotCounts { busy: 1, ready: 3, ..SlotCounts::default() },
        processes: vec![ProcessView {
            id: ProcessId(0),
            epoch: Epoch(3),
            phase: "serving",
            pid: Some(4711),
            device: Some("cuda:0".into()),
            busy: 1,
            device_memory: None,
            last_exit: Some(exit),
        }],
        ..Snapshot::default()
    }
}

/// A machine that tells nothing.
fn nothing_known() -> Runtime {
    Runtime::new(Gpus::absent(), Host::absent(), Vec::new())
}

/// A server in this state: its address, and what keeps it alive.
async fn server(state: WorkerState) -> (String, watch::Sender<Snapshot>, CancellationToken) {
    let (sender, snapshots) = watch::channel(snapshot(state));
    let (events, mut inbox) = tokio::sync::mpsc::channel::<Event>(8);
    tokio::spawn(async move { while let Some(Event::Delivery(DeliveryEvent::Pressure(_))) = inbox.recv().await {} });
    let identity = Identity { worker_id: "w1".into(), hostname: "h1".into(), endpoint_id: None };
    let outbox = outbox::spawn(Arc::new(NoQueue), identity.clone(), OutboxLimits::default(), events);
    let monitor = HeartbeatMonitor::default();
    let state = HttpState::new(
        identity,
        snapshots,
        Arc::new(Metrics::new()),
        outbox,
        monitor,
        Pulse::default(),
        nothing_known(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let over = CancellationToken::new();
    tokio::spawn(serve(listener, state, over.clone()));
    (address, sender, over)
}

async fn get(url: String) -> (u16, String) {
    let reply = reqwest::get(url).await.unwrap();
    (reply.status().as_u16(), reply.text().await.unwrap())
}

#[tokio::test]
async fn health_in_every_state() {
    for state in WorkerState::ALL {
        let (address, _sender, _over) = server(state).await;
        let (status, text) = get(format!("{address}/health")).await;
        assert_eq!(status, 200);
        assert!(!text.contains("user's words"), "{text}");
        let health: Value = serde_json::from_str(&text).unwrap();
        insta::assert_json_snapshot!(format!("health_{}", state.as_str()), health);
    }
}

#[tokio::test]
async fn probes_in_every_state() {
    let mut table = Vec::new();
    for state in WorkerState::ALL {
        let (address, _sender, _over) = server(state).await;
        let (ready, reason) = get(format!("{address}/ready")).await;
        let (ping, _) = get(format!("{address}/ping")).await;
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
    over.cancel();
}
