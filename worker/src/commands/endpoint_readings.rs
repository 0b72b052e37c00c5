//! The readings of an endpoint, from its server's `/metrics`. Its `/health` has RunPod's counters only: they do not tell the mistakes of
//! callers from failures, and name no lost workers.

use runpod_alerts::{Counters, Readings};

/// The readings of one endpoint; `None` when the text does not show it.
pub(super) fn readings(metrics: &str, endpoint: &str) -> Option<Readings> {
    let shown = Shown { metrics, endpoint: format!("endpoint=\"{endpoint}\"") };
    let jobs = |status: &str| shown.sum("runpod_endpoint_jobs_total", &format!("status=\"{status}\""));
    let workers = |state: &str| shown.sum("runpod_endpoint_workers", &format!("state=\"{state}\""));
    Some(Readings {
        waiting: shown.value("runpod_endpoint_queue_depth")?,
        running: shown.sum("runpod_endpoint_jobs_in_progress", ""),
        idle_workers: workers("idle"),
        unhealthy_workers: workers("unhealthy"),
        lost_workers: workers("lost"),
        gpu_utilization: None,
        data_unavailable: None,
        counters: Counters {
            completed: jobs("completed"),
            failed: jobs("failed").saturating_add(jobs("timed_out")),
            caller_mistakes: shown.sum("runpod_endpoint_caller_mistakes_total", ""),
            timed_out: shown.sum("runpod_endpoint_execution_timeouts_total", ""),
        },
    })
}

/// The samples of one endpoint.
struct Shown<'a> {
    metrics: &'a str,
    endpoint: String,
}

impl Shown<'_> {
    /// The values of a metric, of those samples that have this label; of all without one.
    fn values<'b>(&'b self, name: &'b str, label: &'b str) -> impl Iterator<Item = u64> + 'b {
        self.metrics.lines().filter_map(move |line| {
            let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
            let has = |wanted: &str| wanted.is_empty() || labels.split(',').any(|label| label == wanted);
            // Counts may be written as `3.0`.
            let count = value.split(' ').next()?.split('.').next()?.parse().ok()?;
            (has(&self.endpoint) && has(label)).then_some(count)
        })
    }

    fn sum(&self, name: &str, label: &str) -> u64 {
        self.values(name, label).fold(0, u64::saturating_add)
    }

    fn value(&self, name: &str) -> Option<u64> {
        self.values(name, "").next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# HELP runpod_endpoint_jobs Jobs that entered a state.
# TYPE runpod_endpoint_jobs counter
runpod_endpoint_jobs_total{endpoint=\"a\",status=\"completed\"} 60
runpod_endpoint_jobs_total{endpoint=\"a\",status=\"failed\"} 39
runpod_endpoint_jobs_total{endpoint=\"a\",status=\"timed_out\"} 1
runpod_endpoint_jobs_total{endpoint=\"ab\",status=\"failed\"} 1000
runpod_endpoint_jobs_in_progress{endpoint=\"a\"} 2.0
runpod_endpoint_caller_mistakes_total{endpoint=\"a\",kind=\"validation\"} 8
runpod_endpoint_caller_mistakes_total{endpoint=\"a\",kind=\"model_not_found\"} 7
runpod_endpoint_execution_timeouts_total{endpoint=\"a\"} 3
runpod_endpoint_queue_depth{endpoint=\"a\"} 4.0
runpod_endpoint_workers{endpoint=\"a\",state=\"idle\"} 1.0
runpod_endpoint_workers{endpoint=\"a\",state=\"lost\"} 5.0
# EOF
";

    #[test]
    fn the_samples_of_one_endpoint_are_its_readings() {
        let seen = readings(METRICS, "a").unwrap();
        let counters = Counters { completed: 60, failed: 40, caller_mistakes: 15, timed_out: 3 };
        assert_eq!(
            seen,
            Readings { waiting: 4, running: 2, idle_workers: 1, lost_workers: 5, counters, ..Readings::default() }
        );
        assert_eq!(readings(METRICS, "b"), None);
        assert_eq!(readings("<html>", "a"), None);
    }
}
