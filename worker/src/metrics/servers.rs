//! The worker's HTTP servers: their connections, and what they have refused.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use runpod_http_server::ServerCounts;

/// The servers that are shown, by name.
#[derive(Debug)]
pub struct ServerMetrics(Vec<(&'static str, Arc<ServerCounts>)>);

impl ServerMetrics {
    /// Shows the counts of these servers.
    pub fn new(servers: Vec<(&'static str, Arc<ServerCounts>)>) -> Self {
        Self(servers)
    }
}

impl Collector for ServerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Open connections to an HTTP server of the worker.";
        let mut open = encoder.encode_descriptor("runpod_worker_connections", help, None, MetricType::Gauge)?;
        for (server, counts) in &self.0 {
            let connections = i64::try_from(counts.open()).unwrap_or(i64::MAX);
            ConstGauge::new(connections).encode(open.encode_family(&[("server", *server)])?)?;
        }
        let help = "Connections that an HTTP server of the worker refused or closed, by reason.";
        let name = "runpod_worker_connections_refused";
        let mut refused = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (server, counts) in &self.0 {
            for (reason, count) in counts.refused() {
                let labels = [("server", *server), ("reason", reason)];
                ConstCounter::new(count).encode(refused.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
