//! The store's counters as metrics.

mod balanced;
mod overflow;

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::series::Series;
use crate::store::{BatchRequests, DatabaseFigures, Distribution};

/// Requests by operation and class of status; both come from closed sets.
pub(super) type Requests = BTreeMap<(&'static str, &'static str), u64>;

/// What runs the jobs, where it is not known. Workers use the same word.
const UNKNOWN: &str = "unknown";

/// Everything that one scrape shows.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) series: Vec<Series>,
    pub(super) webhooks: [(&'static str, u64); 3],
    pub(super) requests: Requests,
    /// Open connections, and those refused or closed by reason.
    pub(super) connections: (usize, Vec<(&'static str, u64)>),
    /// For a store in a database.
    pub(super) database: Option<DatabaseFigures>,
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.counters(
            encoder,
            "runpod_endpoint_jobs",
            "Jobs that entered a state. in_progress counts every attempt; expired jobs exceeded their ttl.",
            "status",
            Series::jobs,
        )?;
        self.counters(
            encoder,
            "runpod_endpoint_caller_mistakes",
            "Failed jobs whose caller made the mistake, by kind of error. They are among the failed ones of runpod_endpoint_jobs.",
            "kind",
            |series| [("validation", series.totals.invalid), ("model_not_found", series.totals.model_not_found)],
        )?;
        self.counters(
            encoder,
            "runpod_endpoint_jobs_retried",
            "Jobs that were given to another worker because the first one was lost.",
            "",
            |series| [("", series.totals.retried)],
        )?;
        self.counters(
            encoder,
            "runpod_endpoint_jobs_handed_back",
            "Unfinished jobs that workers handed back to the queue. They cost no retry.",
            "",
            |series| [("", series.totals.handed_back)],
        )?;
        self.counters(
            encoder,
            "runpod_endpoint_duplicate_workers",
            "Second processes noticed with the id of a running worker.",
            "",
            |series| [("", series.totals.duplicate_workers)],
        )?;
        self.counters(
            encoder,
            "runpod_endpoint_execution_timeouts",
            "Jobs that exceeded their execution timeout, whether they are reported as FAILED or as TIMED_OUT.",
            "",
            |series| [("", series.totals.execution_timeouts)],
        )?;
        let waiting = "Jobs that wait for a worker, here or at the overflow endpoint, without the requests of batches.";
        self.gauges(encoder, "runpod_endpoint_queue_depth", waiting, "", |series| [("", count(series.in_queue))])?;
        // The names that rules for workers and for other systems use.
        let waiting = "Jobs that wait for a worker, as runpod_endpoint_queue_depth. A worker counts jobs that it holds under this name.";
        self.gauges(encoder, "runpod_queue_depth", waiting, "", |series| [("", count(series.in_queue))])?;
        self.depth_by_model(encoder)?;
        self.gauges(
            encoder,
            "runpod_endpoint_batch_requests",
            "Requests of batches that have not ended. They wait by design, until no other job does.",
            "status",
            |series| {
                let BatchRequests { waiting, in_progress } = series.batch_requests;
                [("in_queue", count(waiting)), ("in_progress", count(in_progress))]
            },
        )?;
        self.gauges(
            encoder,
            "runpod_endpoint_oldest_wait_seconds",
            "How long the oldest of the jobs that wait here has waited, those of low priority apart; 0 when none does.",
            "",
            |series| [("", series.oldest_wait.as_secs_f64())],
        )?;
        self.gauges(encoder, "runpod_endpoint_jobs_in_progress", "Jobs held by workers.", "", |series| {
            [("", count(series.in_progress))]
        })?;
        self.gauges(
            encoder,
            "runpod_endpoint_paused",
            "1 while the endpoint gives out no jobs, else 0.",
            "",
            |series| [("", f64::from(series.paused))],
        )?;
        self.gauges(encoder, "runpod_endpoint_workers", "Workers by state.", "state", |series| {
            series.workers.map(|(state, workers)| (state, count(workers)))
        })?;
        self.histograms(
            encoder,
            "runpod_endpoint_job_delay_seconds",
            "Time from submission to the start of the first attempt, of all jobs but the requests of batches.",
            |series| &series.totals.delay,
        )?;
        self.histograms(
            encoder,
            "runpod_endpoint_job_execution_seconds",
            "Length of the last attempt of jobs that ended.",
            |series| &series.totals.execution,
        )?;
        self.overflow(encoder)?;
        self.balanced(encoder)?;
        let mut webhooks = encoder.encode_descriptor(
            "runpod_endpoint_webhooks",
            "Webhooks by how their delivery ended.",
            None,
            MetricType::Counter,
        )?;
        for (outcome, count) in self.webhooks {
            webhooks.encode_family(&[("outcome", outcome)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let mut requests = encoder.encode_descriptor(
            "runpod_endpoint_http_requests",
            "HTTP requests by operation and class of status, counted when the answer begins.",
            None,
            MetricType::Counter,
        )?;
        for ((operation, status), count) in &self.requests {
            let labels = [("operation", *operation), ("status", *status)];
            requests.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        let (open, refused) = &self.connections;
        let mut connections = describe(
            encoder,
            "runpod_endpoint_connections",
            "Open connections to the server and to load-balancing endpoints.",
            MetricType::Gauge,
        )?;
        connections.encode_gauge(&count(*open))?;
        let mut family = encoder.encode_descriptor(
            "runpod_endpoint_connections_refused",
            "Connections that were refused or closed to keep the server within its limits.",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in refused {
            family.encode_family(&[("reason", *reason)])?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        self.database.map_or(Ok(()), |figures| database(encoder, figures))
    }
}

impl Collected {
    fn counters<const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl Fn(&Series) -> [(&'static str, u64); N],
    ) -> fmt::Result {
        let mut family = describe(encoder, name, help, MetricType::Counter)?;
        for series in &self.series {
            for (value, count) in values(series) {
                let labels = series.labels(label, value);
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn gauges<const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl Fn(&Series) -> [(&'static str, f64); N],
    ) -> fmt::Result {
        let mut family = describe(encoder, name, help, MetricType::Gauge)?;
        for series in &self.series {
            for (value, gauge) in values(series) {
                family.encode_family(&series.labels(label, value))?.encode_gauge(&gauge)?;
            }
        }
        Ok(())
    }

    fn depth_by_model(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Jobs that wait for a worker, without the requests of batches, by the model that the handler's manifest names.";
        let mut family = describe(encoder, "job_queue_depth", help, MetricType::Gauge)?;
        for series in &self.series {
            let (model, version) =
                series.model.as_ref().map_or((UNKNOWN, UNKNOWN), |model| (&*model.name, &*model.version));
            let labels = [("endpoint", &*series.endpoint), ("model", model), ("version", version)];
            family.encode_family(&labels)?.encode_gauge(&count(series.in_queue))?;
        }
        Ok(())
    }

    fn histograms(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        times: impl Fn(&Series) -> &Distribution,
    ) -> fmt::Result {
        let mut family = describe(encoder, name, help, MetricType::Histogram)?;
        for series in &self.series {
            let times = times(series);
            let buckets: Vec<_> = times.buckets().collect();
            let labels = series.labels("", "");
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(times.sum().as_secs_f64(), times.count(), &buckets, None)?;
        }
        Ok(())
    }
}

fn database(encoder: &mut DescriptorEncoder<'_>, figures: DatabaseFigures) -> fmt::Result {
    let DatabaseFigures { is_up, latency, replicas, dead_rows, transactions, transaction_time, .. } = figures;
    for (name, help, value) in [
        (
            "runpod_endpoint_database_up",
            "1 while the database answers, 0 while it is away.",
            f64::from(u8::from(is_up)),
        ),
        (
            "runpod_endpoint_database_latency_seconds",
            "How long the latest question for the database's time took.",
            latency.as_secs_f64(),
        ),
        ("runpod_endpoint_database_replicas", "Endpoints that use the database, this one included.", count(replicas)),
        (
            "runpod_endpoint_database_dead_rows",
            "Rows of jobs that are no longer visible and not vacuumed yet, as the server estimates them.",
            count(dead_rows),
        ),
        (
            "runpod_endpoint_database_connections",
            "Connections that the database server has open, for all its databases.",
            count(figures.connections),
        ),
        (
            "runpod_endpoint_database_connections_allowed",
            "Connections that the database server allows.",
            count(figures.max_connections),
        ),
        ("runpod_endpoint_database_standbys", "Standbys that follow the database server.", count(figures.standbys)),
    ] {
        describe(encoder, name, help, MetricType::Gauge)?.encode_gauge(&value)?;
    }
    let help = "Transactions of this endpoint on jobs.";
    let mut family = describe(encoder, "runpod_endpoint_database_transactions", help, MetricType::Counter)?;
    family.encode_counter::<NoLabelSet, _, u64>(&transactions, None)?;
    let help = "Time that these transactions took together, the wait for each commit included.";
    let mut family = describe(encoder, "runpod_endpoint_database_transaction_seconds", help, MetricType::Counter)?;
    family.encode_counter::<NoLabelSet, _, u64>(&transaction_time.as_secs_f64(), None)
}

/// Begins a family of metrics. Its unit is part of its name.
fn describe<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    match name.strip_suffix("_seconds") {
        Some(name) => encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind),
        None => encoder.encode_descriptor(name, help, None, kind),
    }
}

fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_database_is_shown_where_there_is_one() {
        let figures = DatabaseFigures {
            is_up: true,
            latency: Duration::from_millis(5),
            replicas: 2,
            dead_rows: 7,
            transactions: 40,
            transaction_time: Duration::from_millis(1500),
            connections: 34,
            max_connections: 100,
            standbys: 1,
        };
        for database in [None, Some(figures)] {
            let mut registry = Registry::default();
            let (series, webhooks, requests, connections) = Default::default();
            registry.register_collector(Box::new(Collected { series, webhooks, requests, connections, database }));
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            for line in [
                "database_up 1.0",
                "database_latency_seconds 0.005",
                "database_replicas 2.0",
                "database_dead_rows 7.0",
                "database_transactions_total 40",
                "database_transaction_seconds_total 1.5",
                "database_connections 34.0",
                "database_connections_allowed 100.0",
                "database_standbys 1.0",
            ] {
                let shown = text.contains(&format!("\nrunpod_endpoint_{line}\n"));
                assert_eq!(shown, database.is_some(), "{line}: {text}");
            }
        }
    }
}
