//! The environment variables that tell a worker where its endpoint is.

use std::net::SocketAddr;
use std::time::Duration;

use crate::balancer::PROBE_PATH;
use crate::secret::Secret;
use crate::store::ping_interval;

/// The key that workers send when none is enforced: the official worker sends no heartbeats without a key.
const PLACEHOLDER_KEY: &str = "no-key-is-enforced";

/// The variables that the platform sets, with the values recommended for a local endpoint. All URLs carry a query string, because
/// the official worker appends parameters with `&`. Heartbeats are sent several times within `lease`.
#[must_use]
pub fn worker_env(
    base_url: &str,
    endpoint: &str,
    worker: &str,
    key: Option<&Secret>,
    lease: Duration,
) -> Vec<(&'static str, String)> {
    let url = |rest: &str| format!("{base_url}/v2/{endpoint}/{rest}?gpu=LOCAL");
    vec![
        ("RUNPOD_WEBHOOK_GET_JOB", url("job-take/$ID")),
        ("RUNPOD_WEBHOOK_POST_OUTPUT", url("job-done/$RUNPOD_POD_ID/$ID")),
        ("RUNPOD_WEBHOOK_POST_STREAM", url("job-stream/$RUNPOD_POD_ID/$ID")),
        ("RUNPOD_WEBHOOK_PING", url("ping/$RUNPOD_POD_ID")),
        ("RUNPOD_PING_INTERVAL", ping_interval(lease).as_millis().to_string()),
        ("RUNPOD_AI_API_KEY", key.map_or(PLACEHOLDER_KEY, Secret::expose).to_owned()),
        ("RUNPOD_POD_ID", worker.to_owned()),
        ("RUNPOD_ENDPOINT_ID", endpoint.to_owned()),
    ]
}

/// The variables of a worker that answers HTTP requests itself, on a load-balancing endpoint.
#[must_use]
pub(crate) fn served_worker_env(endpoint: &str, worker: &str, address: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("RUNPOD_WORKER_BIND", address.to_string()),
        ("PORT", address.port().to_string()),
        ("PORT_HEALTH", address.port().to_string()),
        ("HEALTH_CHECK_PATH", PROBE_PATH.to_owned()),
        ("RUNPOD_POD_ID", worker.to_owned()),
        ("RUNPOD_ENDPOINT_ID", endpoint.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_and_stop_routes_can_be_derived() {
        let env = worker_env("http://127.0.0.1:8000", "local", "w1", Some(&Secret::from("k")), Duration::from_secs(40));
        let lines: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        RUNPOD_WEBHOOK_GET_JOB=http://127.0.0.1:8000/v2/local/job-take/$ID?gpu=LOCAL
        RUNPOD_WEBHOOK_POST_OUTPUT=http://127.0.0.1:8000/v2/local/job-done/$RUNPOD_POD_ID/$ID?gpu=LOCAL
        RUNPOD_WEBHOOK_POST_STREAM=http://127.0.0.1:8000/v2/local/job-stream/$RUNPOD_POD_ID/$ID?gpu=LOCAL
        RUNPOD_WEBHOOK_PING=http://127.0.0.1:8000/v2/local/ping/$RUNPOD_POD_ID?gpu=LOCAL
        RUNPOD_PING_INTERVAL=10000
        RUNPOD_AI_API_KEY=k
        RUNPOD_POD_ID=w1
        RUNPOD_ENDPOINT_ID=local
        ");
    }
}
