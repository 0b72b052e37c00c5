//! CPU and memory of a process and everything it started, from `/proc`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use procfs::Current;
use procfs::process::Stat;

/// A shorter window is too coarse: the system counts CPU time in steps of 10 ms.
const MIN_WINDOW: Duration = Duration::from_millis(500);

/// What a worker uses of this machine, or of its container where there is a limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// CPU since the last sample, in percent of all cores.
    pub cpu_percent: f64,
    /// Resident memory, in percent of what there is.
    pub memory_percent: f64,
    /// What there is, in bytes.
    pub memory_total: u64,
}

/// Measures usage between two calls.
#[derive(Debug, Default)]
pub struct UsageMeter {
    last: Option<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    cpu: Duration,
    usage: Usage,
}

impl UsageMeter {
    /// The usage of process `pid` since the last call, or since `started` at the first one.
    pub fn measure(&mut self, pid: u32, started: Instant) -> Option<Usage> {
        let now = Instant::now();
        if let Some(last) = self.last.filter(|last| now - last.at < MIN_WINDOW) {
            return Some(last.usage);
        }
        let (cpu, resident) = totals(i32::try_from(pid).ok()?)?;
        let (since, before) = self.last.map_or((started, Duration::ZERO), |last| (last.at, last.cpu));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let available = (now - since).as_secs_f64().max(0.01) * cores as f64;
        let memory_total = memory_limit()?;
        let usage = Usage {
            cpu_percent: (cpu.saturating_sub(before).as_secs_f64() / available * 100.0).min(100.0),
            memory_percent: resident as f64 / memory_total as f64 * 100.0,
            memory_total,
        };
        self.last = Some(Sample { at: now, cpu, usage });
        Some(usage)
    }
}

/// CPU time and resident bytes of a process and its descendants.
fn totals(root: i32) -> Option<(Duration, u64)> {
    let mut children: HashMap<i32, Vec<Stat>> = HashMap::new();
    let mut found = None;
    // Processes start and exit while they are listed; one that cannot be read has exited.
    for stat in procfs::process::all_processes().ok()?.filter_map(|process| process.ok()?.stat().ok()) {
        if stat.pid == root {
            found = Some(stat);
        } else {
            children.entry(stat.ppid).or_default().push(stat);
        }
    }
    let (mut ticks, mut pages) = (0, 0);
    let mut next = vec![found?];
    while let Some(stat) = next.pop() {
        // The time of children that have ended is part of their parent's.
        ticks += stat.utime + stat.stime + u64::try_from(stat.cutime + stat.cstime).unwrap_or_default();
        pages += stat.rss;
        next.extend(children.remove(&stat.pid).into_iter().flatten());
    }
    let cpu = Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second().max(1) as f64);
    Some((cpu, pages * procfs::page_size()))
}

/// The container's limit, or the machine's memory.
fn memory_limit() -> Option<u64> {
    let machine = procfs::Meminfo::current().ok()?.mem_total;
    let read = |path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    let limit = read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    Some(limit.unwrap_or(machine).min(machine))
}
