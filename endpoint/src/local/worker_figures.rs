//! Figures from the `/health` documents of local workers: their GPUs and their batches. A figure that is not known is left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::batching::Batching;
use super::registry::Local;

/// Limit of one request. A worker on the same machine answers at once or not at all.
const LIMIT: Duration = Duration::from_millis(500);
/// Figures are asked for again after this time, however many viewers there are.
const KEPT: Duration = Duration::from_secs(1);
/// Largest document of a worker.
const MAX_BODY: usize = 1 << 20;

/// One GPU, with the field names of RunPod's pod query and of `runpod-worker`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpu {
    /// Its UUID, or another unique name.
    pub id: String,
    /// Product name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Share of the time in which it computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_util_percent: Option<f64>,
    /// Share of its memory in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_util_percent: Option<f64>,
    /// Degrees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<f64>,
    /// Watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f64>,
    /// Why its clock is held down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub throttle_reasons: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    runtime: Runtime,
    worker: Worker,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    gpus: Vec<Gpu>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Worker {
    processes: Vec<Process>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    batching: Option<Batching>,
}

/// The figures of one worker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
    /// The batches of its handler processes; empty if they run jobs one by one.
    pub batching: Vec<Batching>,
}

/// The latest figures, by worker id.
#[derive(Debug, Clone)]
pub struct WorkerFigures {
    local: Local,
    /// `None` where no HTTP client starts; then there are no figures.
    client: Option<reqwest::Client>,
    latest: Arc<Mutex<Latest>>,
}

#[derive(Debug, Default)]
struct Latest {
    at: Option<Instant>,
    figures: BTreeMap<String, Figures>,
}

impl WorkerFigures {
    /// Figures of these workers.
    #[must_use]
    pub fn new(local: Local) -> Self {
        // No proxy: the workers are on this machine.
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().ok();
        Self { local, client, latest: Arc::default() }
    }

    /// The figures, asked of the workers if the last ones are older than a second.
    pub async fn latest(&self) -> BTreeMap<String, Figures> {
        let mut latest = self.latest.lock().await;
        if latest.at.is_none_or(|at| at.elapsed() >= KEPT) {
            let asked = self.local.http_ports().into_iter().map(|(id, port)| async move {
                let figures = self.ask(port).await?;
                Some((id, figures))
            });
            latest.figures = join_all(asked).await.into_iter().flatten().collect();
            latest.at = Some(Instant::now());
        }
        latest.figures.clone()
    }

    async fn ask(&self, port: u16) -> Option<Figures> {
        let mut reply = self.client.as_ref()?.get(format!("http://127.0.0.1:{port}/health")).send().await.ok()?;
        let mut body = Vec::new();
        while let Some(part) = reply.chunk().await.ok()? {
            if body.len() + part.len() > MAX_BODY {
                return None;
            }
            body.extend_from_slice(&part);
        }
        let Document { runtime, worker } = serde_json::from_slice(&body).ok()?;
        let batching = worker.processes.into_iter().filter_map(|process| process.batching).collect();
        Some(Figures { gpus: runtime.gpus, batching })
    }
}
