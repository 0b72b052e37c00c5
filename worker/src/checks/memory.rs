//! Host memory that is available to the handler.

use std::fs;

use runpod_handler_protocol::CheckReport;

use super::gib;
use crate::sensors::host::{Cgroup, memory_field};

const NAME: &str = "memory";

/// At least `minimum` bytes must be available, on the machine and within the container's limit.
pub(super) fn check(minimum: u64) -> CheckReport {
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(machine) = memory_field(&machine, "MemAvailable") else {
        return CheckReport::skipped(NAME, "/proc/meminfo does not show how much memory is available");
    };
    let found = machine.min(container(&Cgroup::own()).unwrap_or(u64::MAX));
    if found < minimum {
        return CheckReport::failed(
            NAME,
            format!("{} are available, at least {} are required", gib(found), gib(minimum)),
            "use a machine or container with more memory, end what uses it, or lower RUNPOD_MIN_MEMORY_GB",
        );
    }
    CheckReport::ok(NAME, format!("{} available", gib(found)))
}

/// The bytes that the container may still use; `None` without a limit.
fn container(cgroup: &Cgroup) -> Option<u64> {
    let memory = cgroup.memory()?;
    Some(memory.limit?.saturating_sub(memory.used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_container_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        let left = || container(&Cgroup::at(folder.path(), ""));
        assert_eq!(left(), None);
        write("memory.max", "max\n");
        write("memory.current", "400\n");
        assert_eq!(left(), None, "no limit");
        write("memory.max", "1000\n");
        assert_eq!(left(), Some(600));
        write("memory.stat", "inactive_file 150\n");
        assert_eq!(left(), Some(750), "page cache is given up");
        write("memory.max", "100\n");
        assert_eq!(left(), Some(0));
    }
}
