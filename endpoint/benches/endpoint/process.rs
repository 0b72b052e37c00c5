//! What the system says about this machine and this process.

use std::fs::read_to_string;
use std::time::Duration;

/// Processor, memory and system in one line.
pub(crate) fn hardware() -> String {
    let cpu = field("/proc/cpuinfo", "model name");
    let memory: u64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let arch = std::env::consts::ARCH;
    format!("{cores} cores {arch} ({cpu}), {} GiB memory, Linux {}", memory >> 20, kernel.trim())
}

fn field(path: &str, name: &str) -> String {
    let text = read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    line.unwrap_or("unknown").trim().to_owned()
}

/// Memory of this process that is backed by pages, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let kilobytes = field("/proc/self/status", "VmRSS");
    kilobytes.trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Processor time of this process so far.
pub(crate) fn cpu_time() -> Duration {
    let nanoseconds = |path: &str| -> u64 {
        read_to_string(path).ok().and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or_default()
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let paths = tasks.map(|task| task.unwrap().path().join("schedstat"));
    Duration::from_nanos(paths.map(|path| nanoseconds(&path.to_string_lossy())).sum())
}
