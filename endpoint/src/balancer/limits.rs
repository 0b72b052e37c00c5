//! Times and bounds of load balancing. Those of RunPod's load balancer, where it has any.

use std::time::Duration;

/// Between two probes of a worker, and how long one may take.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
pub(super) const PROBE_TIME: Duration = Duration::from_secs(5);
/// Bytes of the answer to a probe that are read.
pub(super) const PROBE_BODY: usize = 64 << 10;
/// How long connecting to a worker may take.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long a worker may take for one request, a WebSocket excepted.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(330);
/// Bytes of a body, each way. A WebSocket has no such limit.
pub(super) const BODY: usize = 30_000_000;
/// Bytes of a request beyond that which are read and dropped, so that its client gets to see the answer.
pub(super) const DISCARDED_BODY: usize = BODY;
/// How long the client of an upgraded connection may take to end its side once the worker has ended its own.
pub(super) const LINGER: Duration = Duration::from_secs(5);
/// Between two looks whether the endpoint is paused.
pub(super) const PAUSE_INTERVAL: Duration = Duration::from_millis(500);

/// The limits with their names, for `--check-config`.
pub(crate) fn describe() -> [(&'static str, String); 4] {
    let time = |time| humantime::format_duration(time).to_string();
    [
        ("balancer-probe-interval", time(PROBE_INTERVAL)),
        ("balancer-probe-time", time(PROBE_TIME)),
        ("balancer-request-time", time(REQUEST_TIME)),
        ("balancer-body", format!("{BODY} bytes")),
    ]
}
