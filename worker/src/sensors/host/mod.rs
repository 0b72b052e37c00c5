//! CPU and memory of the container, or of the machine where there is no container.

mod cgroup;

use std::fs;
use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use cgroup::{Cgroup, CgroupMemory};

use super::limits::HOST_INTERVAL;

/// Use of CPU and memory by the container. Figures that the kernel does not give are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostUsage {
    /// CPU time in the last five seconds, as a share of the available CPUs, from 0 to 1.
    pub cpu: Option<f64>,
    /// Bytes of memory in use.
    pub memory_used: Option<u64>,
    /// Bytes of memory that may be in use.
    pub memory_limit: Option<u64>,
}

/// Shows the newest sample. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host(watch::Receiver<HostUsage>);

impl Host {
    /// Never shows anything.
    pub fn absent() -> Self {
        Self::fixed(HostUsage::default())
    }

    /// The newest sample.
    pub fn latest(&self) -> HostUsage {
        *self.0.borrow()
    }

    pub(crate) fn fixed(usage: HostUsage) -> Self {
        Self(watch::channel(usage).1)
    }
}

/// Samples at an interval until `over`.
pub fn spawn(over: CancellationToken) -> Host {
    let mut meter = Meter::new(Cgroup::own());
    let (latest, host) = watch::channel(meter.sample(Instant::now()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(HOST_INTERVAL) => {}
                () = over.cancelled() => return,
            }
            // The kernel answers from memory: nothing here waits for a disk.
            latest.send_replace(meter.sample(Instant::now()));
        }
    });
    Host(host)
}

#[derive(Debug)]
struct Meter {
    cgroup: Cgroup,
    /// Time and CPU time of the last sample.
    last: Option<(Instant, Duration)>,
}

impl Meter {
    fn new(cgroup: Cgroup) -> Self {
        Self { cgroup, last: None }
    }

    fn sample(&mut self, now: Instant) -> HostUsage {
        let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = memory_field(&machine, "MemTotal");
        let (used, limit) = match self.cgroup.memory() {
            Some(memory) => (Some(memory.used), memory.limit.into_iter().chain(total).min()),
            // The kernel accounts no memory to a container: the machine counts.
            None => (
                total.zip(memory_field(&machine, "MemAvailable")).map(|(total, free)| total.saturating_sub(free)),
                total,
            ),
        };
        HostUsage { cpu: self.cpu(now), memory_used: used, memory_limit: limit }
    }

    fn cpu(&mut self, now: Instant) -> Option<f64> {
        let time = self.cgroup.cpu_time()?;
        let (then, before) = self.last.replace((now, time))?;
        let cpus = self.cgroup.cpu_limit().unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get) as f64);
        let available = now.duration_since(then).as_secs_f64() * cpus;
        (available > 0.0).then(|| (time.saturating_sub(before).as_secs_f64() / available).min(1.0))
    }
}

/// A line of `/proc/meminfo`, in bytes.
pub(crate) fn memory_field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_the_share_of_what_the_container_may_use() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
        write("cpu.stat", "usage_usec 1000000\n");
        write("cpu.max", "200000 100000\n");
        let (mut meter, start) = (Meter::new(Cgroup::at(root.path(), "")), Instant::now());
        assert_eq!(meter.sample(start).cpu, None, "a share needs two samples");
        write("cpu.stat", "usage_usec 6000000\n");
        assert_eq!(meter.sample(start + Duration::from_secs(5)).cpu, Some(0.5));
        write("cpu.stat", "usage_usec 99000000\n");
        assert_eq!(meter.sample(start + Duration::from_secs(10)).cpu, Some(1.0));
    }

    #[test]
    fn memory_is_the_containers_and_its_limit_at_most_the_machines() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let total = memory_field(&meminfo, "MemTotal");
        let mut meter = Meter::new(Cgroup::at(root.path(), ""));
        let usage = meter.sample(Instant::now());
        assert!(usage.memory_used > Some(0) && usage.memory_used < total && usage.memory_limit == total, "{usage:?}");
        write("memory.current", "4096\n");
        assert_eq!(meter.sample(Instant::now()).memory_used, Some(4096));
        for (limit, expected) in [("max", total), ("1152921504606846975", total), ("8192", Some(8192))] {
            write("memory.max", limit);
            assert_eq!(meter.sample(Instant::now()).memory_limit, expected, "{limit}");
        }
    }

    #[tokio::test]
    async fn the_memory_of_this_machine_is_known_at_once() {
        let over = CancellationToken::new();
        let usage = spawn(over.clone()).latest();
        over.cancel();
        assert!(usage.memory_used > Some(0) && usage.memory_used < usage.memory_limit, "{usage:?}");
    }

    #[test]
    fn a_field_of_meminfo_is_read_in_bytes() {
        let text = "MemTotal:       24677720 kB\nMemFree:  1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(memory_field(text, "MemAvailable"), Some(2048 * 1024));
        assert_eq!(memory_field("MemTotal: 1 kB\n", "MemAvailable"), None);
    }
}
