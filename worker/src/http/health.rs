//! `/health`: the platform's document about jobs and workers, for this one worker, and what is known beyond it.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::server::HttpState;
use crate::core::snapshot::{ProcessView, Snapshot, WorkerState};

pub(super) async fn health(State(state): State<HttpState>) -> Json<Health> {
    let vitals = &state.vitals;
    let times = Times {
        uptime_seconds: vitals.uptime().as_secs(),
        last_poll: vitals.last_poll(),
        last_ping: vitals.last_ping(),
    };
    Json(Health::new(&state.snapshot.borrow(), &state.worker_id, &times))
}

/// What the document takes from [`Vitals`](super::Vitals).
struct Times {
    uptime_seconds: u64,
    last_poll: Option<SystemTime>,
    last_ping: Option<SystemTime>,
}

/// `jobs` and `workers` are the platform's; `worker` and `runtime` are this worker's own.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    jobs: Jobs,
    workers: Workers,
    worker: Worker,
    runtime: Runtime,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Jobs {
    completed: u64,
    failed: u64,
    in_progress: usize,
    in_queue: usize,
    retried: u64,
}

/// 0 or 1 each. A worker that drains counts in none of them: the platform has no word for it.
#[derive(Debug, Serialize)]
struct Workers {
    idle: u8,
    initializing: u8,
    /// Equal to `idle`, as on the platform.
    ready: u8,
    running: u8,
    throttled: u8,
    unhealthy: u8,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Worker {
    id: String,
    version: &'static str,
    state: &'static str,
    reason: Option<String>,
    handler: Option<Handler>,
    slots: Slots,
    processes: Vec<Process>,
    outbox: Outbox,
    jobs: MoreJobs,
    last_poll: Option<String>,
    last_ping: Option<String>,
}

#[derive(Debug, Serialize)]
struct Handler {
    name: String,
    version: String,
}

#[derive(Debug, Serialize)]
struct Slots {
    ready: usize,
    busy: usize,
    lingering: usize,
    loading: usize,
    absent: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    id: usize,
    pid: Option<u32>,
    phase: &'static str,
    device: Option<String>,
    restarts: u32,
    last_exit: Option<LastExit>,
}

/// Without the last lines of output: they may hold what users sent, and anybody may read this document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LastExit {
    status: String,
    host_oom: bool,
}

#[derive(Debug, Serialize)]
struct Outbox {
    delivering: usize,
}

/// Counts that the platform's `jobs` has no place for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MoreJobs {
    timed_out: u64,
    cancelled: u64,
    handed_back: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    uptime_in_seconds: u64,
}

impl Health {
    fn new(snapshot: &Snapshot, worker_id: &str, times: &Times) -> Self {
        let Snapshot { jobs, slots, .. } = snapshot;
        Self {
            jobs: Jobs {
                completed: jobs.completed,
                failed: jobs.failed,
                in_progress: jobs.in_progress,
                in_queue: jobs.in_queue,
                retried: jobs.retried,
            },
            workers: Workers::new(snapshot.state),
            worker: Worker {
                id: worker_id.to_owned(),
                version: env!("CARGO_PKG_VERSION"),
                state: snapshot.state.as_str(),
                reason: snapshot.reason.clone(),
                handler: snapshot
                    .manifest
                    .as_ref()
                    .map(|manifest| Handler { name: manifest.name.clone(), version: manifest.version.clone() }),
                slots: Slots {
                    ready: slots.ready,
                    busy: slots.busy,
                    lingering: slots.lingering,
                    loading: slots.loading,
                    absent: slots.absent,
                },
                processes: snapshot.processes.iter().map(Process::new).collect(),
                outbox: Outbox { delivering: jobs.delivering },
                jobs: MoreJobs { timed_out: jobs.timed_out, cancelled: jobs.cancelled, handed_back: jobs.handed_back },
                last_poll: times.last_poll.map(rfc3339),
                last_ping: times.last_ping.map(rfc3339),
            },
            runtime: Runtime { uptime_in_seconds: times.uptime_seconds },
        }
    }
}

impl Workers {
    fn new(state: WorkerState) -> Self {
        let one_if = |states: &[WorkerState]| u8::from(states.contains(&state));
        let idle = one_if(&[WorkerState::Ready, WorkerState::Idle]);
        Self {
            idle,
            initializing: one_if(&[WorkerState::Initializing]),
            ready: idle,
            running: one_if(&[WorkerState::Running]),
            throttled: one_if(&[WorkerState::Throttled]),
            unhealthy: one_if(&[WorkerState::Unhealthy]),
        }
    }
}

impl Process {
    fn new(view: &ProcessView) -> Self {
        Self {
            id: view.id.0,
            pid: view.pid,
            phase: view.phase,
            device: view.device.clone(),
            restarts: view.epoch.0.saturating_sub(1),
            last_exit: view
                .last_exit
                .as_ref()
                .map(|exit| LastExit { status: exit.status.to_string(), host_oom: exit.host_oom }),
        }
    }
}

fn rfc3339(moment: SystemTime) -> String {
    humantime::format_rfc3339_millis(moment).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::snapshot::{JobCounts, SlotCounts};
    use crate::core::{Epoch, Exit, ExitReason, ProcessId};

    fn document(state: WorkerState) -> Health {
        let snapshot = Snapshot {
            state,
            reason: (state == WorkerState::Unhealthy).then(|| "the handler crashed 5 times in 10 minutes".to_owned()),
            jobs: JobCounts {
                completed: 31,
                failed: 4,
                timed_out: 3,
                cancelled: 2,
                handed_back: 1,
                retried: 5,
                in_progress: 6,
                in_queue: 7,
                delivering: 8,
            },
            slots: SlotCounts { ready: 1, busy: 2, lingering: 3, loading: 4, absent: 5 },
            processes: vec![ProcessView {
                id: ProcessId(0),
                epoch: Epoch(3),
                phase: "serving",
                pid: Some(4711),
                device: Some("cuda:0".into()),
                last_exit: Some(Exit {
                    status: ExitReason::Signal(11),
                    host_oom: false,
                    last_lines: vec!["private".into()],
                }),
            }],
            ..Snapshot::default()
        };
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let times = Times { uptime_seconds: 90, last_poll: at(1_700_000_000), last_ping: None };
        Health::new(&snapshot, "worker-1", &times)
    }

    #[test]
    fn a_document_for_every_state() {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.bind(|| {
            for state in WorkerState::ALL {
                let mut health = document(state);
                health.worker.version = "[version]";
                insta::assert_json_snapshot!(format!("health_{}", state.as_str()), health);
            }
        });
    }

    #[test]
    fn a_fresh_worker_has_nulls_not_gaps() {
        let times = Times { uptime_seconds: 0, last_poll: None, last_ping: None };
        let health = serde_json::to_value(Health::new(&Snapshot::default(), "w", &times)).unwrap();
        assert_eq!(health["workers"]["initializing"], 1);
        for field in ["reason", "handler", "lastPoll", "lastPing"] {
            assert!(health["worker"].get(field).is_some_and(serde_json::Value::is_null), "{field}");
        }
    }
}
