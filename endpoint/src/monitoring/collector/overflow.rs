//! The jobs that went to another endpoint, and how that stands.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Collected, describe};
use crate::overflow::HeldBack;

impl Collected {
    pub(super) fn overflow(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let totals = || self.series.iter().filter_map(|series| Some((series, series.overflow?)));
        let help = "Jobs that went to the overflow endpoint, by how they left it.";
        let mut family = describe(encoder, "runpod_endpoint_overflow_jobs", help, MetricType::Counter)?;
        for (series, totals) in totals() {
            for (outcome, count) in [
                ("completed", totals.completed),
                ("failed", totals.failed),
                ("returned", totals.returned),
                ("stopped", totals.stopped),
            ] {
                let labels = series.labels("outcome", outcome);
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "Cost of the jobs at the overflow endpoint.";
        let mut family = describe(encoder, "runpod_endpoint_overflow_dollars", help, MetricType::Counter)?;
        for (series, totals) in totals() {
            let labels = series.labels("", "");
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&totals.dollars, None)?;
        }
        let help = "1 while the overflow endpoint takes jobs and answers, 0 after it has not, until it does again.";
        let mut family = describe(encoder, "runpod_endpoint_overflow_up", help, MetricType::Gauge)?;
        for (series, totals) in totals() {
            family.encode_family(&series.labels("", ""))?.encode_gauge(&f64::from(!totals.is_away))?;
        }
        let help = "1 while late jobs wait here because of a limit of the overflow, by limit, else 0.";
        let mut family = describe(encoder, "runpod_endpoint_overflow_held_back", help, MetricType::Gauge)?;
        for (series, totals) in totals() {
            for reason in HeldBack::ALL {
                let labels = series.labels("reason", reason.as_str());
                family.encode_family(&labels)?.encode_gauge(&f64::from(totals.held_back == Some(reason)))?;
            }
        }
        Ok(())
    }
}
