//! A bound on the processor time of a process, by a control group: as if it ran on a smaller host.

use std::fs::{create_dir, read_to_string, remove_dir, write};
use std::io;
use std::path::{Path, PathBuf};

/// Where groups are made under version 1 of the interface, and under version 2.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"];

/// Short, so that a process that has used its time up is held up for a few milliseconds.
const PERIOD_MICROS: u32 = 10_000;

/// Groups of processes, each of which may use this share of one core.
pub(crate) struct Quota {
    groups: Vec<PathBuf>,
}

impl Quota {
    /// # Errors
    /// When no group can be made: it takes root and a file system of groups that can be written to.
    pub(crate) fn new(share: f64) -> io::Result<Self> {
        let root = ROOTS.iter().find(|root| Path::new(root).is_dir()).ok_or(io::ErrorKind::NotFound)?;
        let micros = f64::from(PERIOD_MICROS) * share;
        // Removes what there is of it when one cannot be made.
        let mut quota = Self { groups: Vec::new() };
        for number in 0..2 {
            let group = Path::new(root).join(format!("endpoint-bench-{}-{number}", std::process::id()));
            create_dir(&group)?;
            quota.groups.push(group);
        }
        for group in &quota.groups {
            if group.join("cpu.max").exists() {
                write(group.join("cpu.max"), format!("{micros:.0} {PERIOD_MICROS}"))?;
            } else {
                write(group.join("cpu.cfs_period_us"), PERIOD_MICROS.to_string())?;
                write(group.join("cpu.cfs_quota_us"), format!("{micros:.0}"))?;
            }
        }
        Ok(quota)
    }

    /// Puts a process into one of the groups.
    pub(crate) fn limit(&self, group: usize, process: u32) {
        write(self.groups[group].join("cgroup.procs"), process.to_string()).unwrap();
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        for group in &self.groups {
            // Its process has been killed, and may not be gone yet.
            while read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty()) {
                std::thread::yield_now();
            }
            let _ = remove_dir(group);
        }
    }
}
