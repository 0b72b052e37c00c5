//! GPU figures of a worker, from its own `/health`.

use std::time::Duration;

use reqwest::{Client, redirect};
use serde::Deserialize;

/// A worker of this machine answers at once, or is about to go.
const LIMIT: Duration = Duration::from_secs(1);
/// Far more than a health document has.
const MAX_BODY: usize = 1 << 20;

/// One GPU of a worker. Figures that the worker does not know are absent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Its UUID.
    pub id: String,
    /// Its product name.
    pub name: Option<String>,
    /// Share of the time in which it computes.
    pub gpu_util_percent: Option<f64>,
    /// Share of its memory in use.
    pub memory_util_percent: Option<f64>,
}

/// Asks workers about their GPUs.
#[derive(Debug, Clone)]
pub struct GpuClient(Option<Client>);

impl GpuClient {
    /// One that finds no GPUs where there can be no client.
    #[must_use]
    pub fn new() -> Self {
        // A worker is on this machine: no proxy can reach it.
        let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(LIMIT).build();
        if let Err(error) = &client {
            tracing::warn!(%error, "GPU figures of workers are not available");
        }
        Self(client.ok())
    }

    /// The GPUs of the worker whose HTTP server has this port; none when it does not tell.
    pub async fn ask(&self, port: u16) -> Vec<Gpu> {
        self.fetch(port)
            .await
            .and_then(|body| serde_json::from_slice::<Health>(&body).ok())
            .unwrap_or_default()
            .runtime
            .gpus
    }

    async fn fetch(&self, port: u16) -> Option<Vec<u8>> {
        let mut reply = self.0.as_ref()?.get(format!("http://127.0.0.1:{port}/health")).send().await.ok()?;
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await.ok()? {
            if body.len() + chunk.len() > MAX_BODY {
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        Some(body)
    }
}

impl Default for GpuClient {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Default, Deserialize)]
struct Health {
    #[serde(default)]
    runtime: Runtime,
}

#[derive(Default, Deserialize)]
struct Runtime {
    #[serde(default)]
    gpus: Vec<Gpu>,
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    /// A worker that says this about its health; its port.
    pub(crate) async fn worker_saying(health: &'static str) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/health", get(move || async move { health }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    #[tokio::test]
    async fn what_a_worker_tells_is_read_and_the_rest_left_alone() {
        let port = worker_saying(
            r#"{"jobs": {}, "runtime": {"uptimeInSeconds": 3, "gpus": [
                {"id": "GPU-1", "index": 0, "name": "NVIDIA L4", "gpuUtilPercent": 57.5, "memoryUtilPercent": 25},
                {"id": "cuda:1", "index": 1}]}}"#,
        )
        .await;
        let gpus = GpuClient::new().ask(port).await;
        let told = Gpu {
            id: "GPU-1".into(),
            name: Some("NVIDIA L4".into()),
            gpu_util_percent: Some(57.5),
            memory_util_percent: Some(25.0),
        };
        let silent = Gpu { id: "cuda:1".into(), name: None, gpu_util_percent: None, memory_util_percent: None };
        assert_eq!(gpus, [told, silent]);
    }

    #[tokio::test]
    async fn a_worker_without_gpus_or_without_an_answer_has_none() {
        let client = GpuClient::new();
        assert_eq!(client.ask(worker_saying(r#"{"runtime": {"ports": []}}"#).await).await, []);
        assert_eq!(client.ask(worker_saying("no JSON").await).await, []);
        let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
        assert_eq!(client.ask(nobody).await, []);
    }
}
