//! Host memory that is left for the handler.

use std::fs;
use std::path::Path;

use runpod_handler_protocol::CheckReport;

use super::gib;

const NAME: &str = "memory";

/// At least `minimum` bytes must be available, on the machine and within the container's limit.
pub(super) fn check(minimum: u64) -> CheckReport {
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(available);
    let Some(machine) = machine else {
        return CheckReport::skipped(NAME, "/proc/meminfo does not say how much memory is available");
    };
    let found = machine.min(container(Path::new("/sys/fs/cgroup")).unwrap_or(u64::MAX));
    if found < minimum {
        return CheckReport::failed(
            NAME,
            format!("{} are available, at least {} are asked for", gib(found), gib(minimum)),
            "use a machine or container with more memory, end what uses it, or lower RUNPOD_MIN_MEMORY_GB",
        );
    }
    CheckReport::ok(NAME, format!("{} available", gib(found)))
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What the container may still use; `None` without a limit. Page cache counts as used there, but the kernel gives it up
/// before it runs out.
fn container(root: &Path) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(root.join(file)).ok();
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    // The second name of each is that of cgroup version 1, whose "no limit" is a huge number.
    let limit = number("memory.max").or_else(|| number("memory/memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory/memory.usage_in_bytes"))?;
    let stat = read("memory.stat").or_else(|| read("memory/memory.stat")).unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_estimate_is_read() {
        let text = "MemTotal:       24677720 kB\nMemFree:  1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(available(text), Some(2048 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_containers_limit_counts_without_its_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        assert_eq!(container(folder.path()), None);
        write("memory.max", "max\n");
        write("memory.current", "400\n");
        assert_eq!(container(folder.path()), None, "no limit");
        write("memory.max", "1000\n");
        assert_eq!(container(folder.path()), Some(600));
        write("memory.stat", "anon 250\ninactive_file 150\nactive_file 0\n");
        assert_eq!(container(folder.path()), Some(750));
    }

    #[test]
    fn the_older_kind_of_container_too() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("memory")).unwrap();
        for (file, text) in [("memory.limit_in_bytes", "1000"), ("memory.usage_in_bytes", "100")] {
            fs::write(folder.path().join("memory").join(file), text).unwrap();
        }
        assert_eq!(container(folder.path()), Some(900));
    }
}
