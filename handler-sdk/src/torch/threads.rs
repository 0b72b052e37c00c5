//! CPU threads of libtorch: every model gets an equal share of the CPUs that this worker may use.

use std::num::NonZero;
use std::thread::available_parallelism;

use runpod_handler_protocol::CheckReport;

/// Variable by which the user sets the number of threads; libtorch itself reads it.
const OVERRIDE: &str = "OMP_NUM_THREADS";

/// What the CPUs are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuShares {
    /// Handler processes of the worker.
    pub(crate) processes: u32,
    /// Models in each process.
    pub(crate) models_in_each: u32,
}

impl CpuShares {
    /// Threads for each model: at least one.
    fn share_of(self, cpus: usize) -> usize {
        let models = (self.processes as usize).saturating_mul(self.models_in_each as usize);
        cpus.checked_div(models).unwrap_or(cpus).max(1)
    }
}

/// Sets the number of threads that libtorch uses for an operation on this thread. To be called before the first operation:
/// libtorch would otherwise start a thread for every CPU of the machine.
pub(crate) fn limit_threads(shares: CpuShares) {
    if std::env::var_os(OVERRIDE).is_none() {
        tch::set_num_threads(i32::try_from(shares.share_of(cpus())).unwrap_or(i32::MAX));
    }
}

/// Reports the number of threads and how it was computed. [`limit_threads`] must have been called on this thread.
pub(super) fn report(shares: CpuShares) -> CheckReport {
    let threads = tch::get_num_threads();
    let reason = match std::env::var(OVERRIDE) {
        Ok(value) => format!("{OVERRIDE} is {value}"),
        Err(_) => {
            format!("CPUs {}, processes {}, models in each process {}", cpus(), shares.processes, shares.models_in_each)
        }
    };
    CheckReport::ok("threads", format!("libtorch uses {threads} CPU threads for each model ({reason})"))
}

/// CPUs that this process may use, by its affinity and by the quota of its cgroup.
fn cpus() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_an_equal_share_and_at_least_one_thread() {
        let share = |cpus, processes, models_in_each| CpuShares { processes, models_in_each }.share_of(cpus);
        assert_eq!(share(8, 1, 1), 8);
        assert_eq!(share(8, 2, 1), 4);
        assert_eq!(share(8, 2, 3), 1);
        assert_eq!(share(2, 64, 1024), 1);
        assert_eq!(share(2, 0, 0), 2);
    }

    #[test]
    fn the_limit_holds_on_the_thread_that_sets_it_and_is_reported() {
        let shares = CpuShares { processes: 1, models_in_each: u32::MAX };
        let (threads, report) = std::thread::spawn(move || {
            limit_threads(shares);
            (tch::get_num_threads(), report(shares))
        })
        .join()
        .unwrap();
        if std::env::var_os(OVERRIDE).is_none() {
            assert_eq!(threads, 1);
            assert!(report.detail.starts_with("libtorch uses 1 CPU threads for each model (CPUs "), "{report:?}");
        } else {
            assert!(report.detail.contains(OVERRIDE), "{report:?}");
        }
    }
}
