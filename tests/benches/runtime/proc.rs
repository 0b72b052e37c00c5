//! What the kernel knows about processes: time, memory, wake-ups.

use std::fs;

/// MiB in a KiB.
const MIB: f64 = 1.0 / 1024.0;

/// A process and everything that it has started.
pub(crate) fn family(root: i32) -> Vec<i32> {
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(pid) = pids.get(next).copied() {
        next += 1;
        for thread in threads(pid) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    pids
}

fn threads(pid: i32) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

/// Whether a process has not exited yet.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}

/// Processor time of the threads of these processes so far, in seconds.
pub(crate) fn cpu(pids: &[i32]) -> f64 {
    pids.iter().map(|pid| threads(*pid).map(|thread| cpu_of(*pid, &thread)).sum::<f64>()).sum()
}

/// Processor time of the thread of this process with this name so far, in seconds.
pub(crate) fn cpu_of_thread(name: &str) -> f64 {
    let own = std::process::id().cast_signed();
    let is_named = |thread: &String| {
        fs::read_to_string(format!("/proc/{own}/task/{thread}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    threads(own).filter(is_named).map(|thread| cpu_of(own, &thread)).sum()
}

/// Of one thread. `schedstat` has nanoseconds, where `stat` has hundredths of a second.
fn cpu_of(pid: i32, thread: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

/// Their share of memory (PSS) now, in MiB.
pub(crate) fn pss(pids: &[i32]) -> f64 {
    pids.iter().map(|pid| kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:") * MIB).sum()
}

/// The peak of their resident memory since the last [`reset_peak`], in MiB.
pub(crate) fn peak(pids: &[i32]) -> f64 {
    pids.iter().map(|pid| kib(&format!("/proc/{pid}/status"), "VmHWM:") * MIB).sum()
}

/// Peaks count from now on.
pub(crate) fn reset_peak(pids: &[i32]) {
    for pid in pids {
        // Where that is forbidden, the peak is that of the whole life.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

/// How often their threads began to wait so far: as often as they were woken.
pub(crate) fn wake_ups(pids: &[i32]) -> f64 {
    let of_thread =
        |pid: i32, thread: &str| kib(&format!("/proc/{pid}/task/{thread}/status"), "voluntary_ctxt_switches:");
    pids.iter().map(|pid| threads(*pid).map(|thread| of_thread(*pid, &thread)).sum::<f64>()).sum()
}

/// The number behind a name in a file of the kernel.
fn kib(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
}
