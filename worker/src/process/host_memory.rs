//! Reports how much host memory a handler process holds.

use std::fs;
use std::time::Duration;

use super::events::Events;
use crate::sensors::host::memory_field;
use runpod_worker_core::ProcessEvent;

/// Reports the resident set of a process again and again. Ends only by being aborted.
///
/// Files that are mapped, such as weights, count once they have been read: the kernel counts them too.
pub(super) async fn watch(pid: i32, interval: Duration, events: Events) {
    loop {
        tokio::time::sleep(interval).await;
        // The kernel answers from memory: nothing here waits for a disk.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if let Some(host_bytes) = memory_field(&status, "VmRSS") {
            events.send(ProcessEvent::Memory { host_bytes }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_set_is_read_from_the_kernels_text() {
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert!(memory_field(&own, "VmRSS").unwrap() > 100 * 1024);
        assert_eq!(memory_field("Name:\tsh\nVmRSS:\t      12 kB\n", "VmRSS"), Some(12 * 1024));
        assert_eq!(memory_field("Name:\tsh\nState:\tZ (zombie)\n", "VmRSS"), None);
    }
}
