//! The requests to load-balancing endpoints.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Collected, count, describe};
use crate::balancer::{RequestFigures, RequestTotals};
use crate::monitoring::labels::STATUS_CLASSES;
use crate::store::Distribution;

impl Collected {
    /// The requests to load-balancing endpoints.
    pub(super) fn balanced(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let figures = || self.series.iter().filter_map(|series| Some((series.labels("", ""), series.balanced?)));
        let help = "Requests to load-balancing endpoints by class of status, counted when the answer begins.";
        let mut family = describe(encoder, "runpod_endpoint_balanced_requests", help, MetricType::Counter)?;
        for (endpoint, figures) in figures() {
            for (status, count) in STATUS_CLASSES.into_iter().zip(figures.totals.answers) {
                let labels = [endpoint[0], ("status", status)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        for (name, help, gauge) in [
            (
                "runpod_endpoint_balanced_requests_in_progress",
                "Requests at workers of load-balancing endpoints, open WebSockets included.",
                (|figures| figures.in_progress) as fn(RequestFigures) -> usize,
            ),
            (
                "runpod_endpoint_balanced_requests_waiting",
                "Requests to load-balancing endpoints that wait for a worker.",
                |figures| figures.waiting,
            ),
        ] {
            let mut family = describe(encoder, name, help, MetricType::Gauge)?;
            for (endpoint, figures) in figures() {
                family.encode_family(&endpoint)?.encode_gauge(&count(gauge(figures)))?;
            }
        }
        for (name, help, times) in [
            (
                "runpod_endpoint_balanced_request_wait_seconds",
                "How long requests to load-balancing endpoints waited for a worker, whether they got one or not.",
                (|totals| totals.wait) as fn(RequestTotals) -> Distribution,
            ),
            (
                "runpod_endpoint_balanced_request_seconds",
                "Time from a request to a load-balancing endpoint to the last byte of its answer, without WebSockets.",
                |totals| totals.duration,
            ),
        ] {
            let mut family = describe(encoder, name, help, MetricType::Histogram)?;
            for (endpoint, figures) in figures() {
                let times = times(figures.totals);
                let buckets: Vec<_> = times.buckets().collect();
                let mut metric = family.encode_family(&endpoint)?;
                metric.encode_histogram::<NoLabelSet>(times.sum().as_secs_f64(), times.count(), &buckets, None)?;
            }
        }
        Ok(())
    }
}
