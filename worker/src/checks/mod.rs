//! Fitness checks that the worker makes itself, before its first poll: memory, disk, network. What concerns the device and
//! the model is checked in the handler process, because the worker opens no CUDA context.
//!
//! A failed check means that this machine must not take jobs: one report goes to the platform, and the worker exits with 1.

mod disk;
mod memory;
mod network;

use std::path::PathBuf;
use std::time::Duration;

use runpod_handler_protocol::CheckReport;

/// What these checks look at and demand. The checks in the handler process stand in
/// [`Policy::checks`](runpod_worker_core::Policy::checks).
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// The variable that switches these checks off, if one does.
    pub skipped_by: Option<&'static str>,
    /// `RUNPOD_MIN_MEMORY_GB` in bytes.
    pub min_memory: u64,
    /// `RUNPOD_MIN_DISK_PERCENT`.
    pub min_disk_percent: f64,
    /// Folders whose file systems must have that share free.
    pub folders: Vec<PathBuf>,
    /// `--check-network`.
    pub network: Option<String>,
    /// `RUNPOD_NETWORK_CHECK_TIMEOUT`.
    pub network_timeout: Duration,
}

/// Makes all checks, one after another. Takes no longer than the network check's limit and a few reads.
pub async fn run(config: &CheckConfig) -> Vec<CheckReport> {
    if let Some(variable) = config.skipped_by {
        let skipped = |name| CheckReport::skipped(name, format!("{variable} is set"));
        return ["memory", "disk", "network"].map(skipped).into();
    }
    let mut reports = vec![memory::check(config.min_memory)];
    reports.extend(config.folders.iter().map(|folder| disk::check(folder, config.min_disk_percent)));
    reports.push(match &config.network {
        Some(target) => network::check(target, config.network_timeout).await,
        None => CheckReport::skipped("network", "not asked for with --check-network"),
    });
    reports
}

/// Logs the outcome of each check.
pub fn log(reports: &[CheckReport]) {
    for report in reports {
        let CheckReport { name, detail, fix, .. } = report;
        if report.is_failure() {
            tracing::error!(check = name, detail, fix, "A fitness check failed: no job is taken.");
        } else {
            tracing::debug!(check = name, status = %report.status, detail, "A fitness check passed.");
        }
    }
}

/// A number of bytes in GiB.
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use runpod_handler_protocol::CheckStatus;

    use super::*;

    fn config() -> CheckConfig {
        CheckConfig {
            skipped_by: None,
            min_memory: 1,
            min_disk_percent: 0.0,
            folders: vec!["/".into()],
            network: None,
            network_timeout: Duration::from_secs(5),
        }
    }

    async fn statuses(config: &CheckConfig) -> Vec<(String, CheckStatus)> {
        run(config).await.into_iter().map(|report| (report.name, report.status)).collect()
    }

    #[tokio::test]
    async fn nothing_outside_is_contacted_unless_asked_for() {
        let (ok, skipped) = (CheckStatus::Ok, CheckStatus::Skipped);
        let expected = [("memory", ok), ("disk", ok), ("network", skipped)].map(|(name, s)| (name.to_owned(), s));
        assert_eq!(statuses(&config()).await, expected);
        let skip = CheckConfig { skipped_by: Some("X"), min_memory: u64::MAX, ..config() };
        assert!(statuses(&skip).await.iter().all(|(_, status)| *status == skipped));
    }

    #[tokio::test]
    async fn limits_that_are_not_met_are_failures_with_a_fix() {
        let greedy = CheckConfig { min_memory: u64::MAX, min_disk_percent: 100.0, ..config() };
        let reports = run(&greedy).await;
        for (report, fix) in reports.iter().zip(["RUNPOD_MIN_MEMORY_GB", "RUNPOD_MIN_DISK_PERCENT"]) {
            assert!(report.is_failure() && report.fix.contains(fix), "{report:?}");
        }
    }
}
