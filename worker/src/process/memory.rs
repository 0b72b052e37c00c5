//! Looks at how much host memory a handler process holds.

use std::fs;
use std::time::Duration;

use super::incarnation::Events;
use runpod_worker_core::ProcessEvent;

/// Reports the resident set of a process again and again. Ends only by being aborted.
///
/// Files that are mapped, such as weights, count once they have been read: the kernel counts them too.
pub(super) async fn watch(pid: i32, interval: Duration, events: Events) {
    loop {
        tokio::time::sleep(interval).await;
        // The kernel answers from memory: nothing here waits for a disk.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if let Some(host_bytes) = resident(&status) {
            events.send(ProcessEvent::Memory { host_bytes }).await;
        }
    }
}

/// `VmRSS` in bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_set_is_found_and_a_dead_process_has_none() {
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert!(resident(&own).unwrap() > 100 * 1024);
        assert_eq!(resident("Name:\tsh\nVmRSS:\t      12 kB\n"), Some(12 * 1024));
        assert_eq!(resident("Name:\tsh\nState:\tZ (zombie)\n"), None);
    }
}
