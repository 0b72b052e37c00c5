//! What the kernel accounts to this container, from cgroup version 2 or 1. The one place that reads `/sys/fs/cgroup`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Memory of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupMemory {
    /// Bytes in use, without the page cache that the kernel gives up before it runs out.
    pub used: u64,
    /// Bytes that may be in use; `None` without a limit.
    pub limit: Option<u64>,
}

/// The worker's own group, which its handler processes share.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Folders of version 2, then those of version 1 by the controllers they are mounted for.
    unified: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
    cpuacct: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

impl Cgroup {
    /// The group of this process.
    pub fn own() -> Self {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::at(Path::new("/sys/fs/cgroup"), &membership)
    }

    /// `membership` is the text of `/proc/self/cgroup`: lines of `hierarchy:controllers:path`. Inside a container the path
    /// often names a place outside of it, so the root of the mount is tried as well.
    pub(crate) fn at(mount: &Path, membership: &str) -> Self {
        let path = |controller: &str| {
            membership.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/'))
            })
        };
        let folders = |root: PathBuf, controller: &str| {
            let own = path(controller).map(|path| root.join(path));
            own.into_iter().chain([root]).collect()
        };
        Self {
            unified: folders(mount.to_owned(), ""),
            cpu: folders(mount.join("cpu"), "cpu"),
            cpuacct: folders(mount.join("cpuacct"), "cpuacct"),
            memory: folders(mount.join("memory"), "memory"),
        }
    }

    /// Memory; `None` when the kernel does not account it here.
    pub fn memory(&self) -> Option<CgroupMemory> {
        let used = number(&self.unified, "memory.current").or_else(|| number(&self.memory, "memory.usage_in_bytes"))?;
        // Version 1 writes "no limit" as a number that no machine has.
        let limit = number(&self.unified, "memory.max").or_else(|| number(&self.memory, "memory.limit_in_bytes"));
        let cache = field(&self.unified, "memory.stat", "inactive_file")
            .or_else(|| field(&self.memory, "memory.stat", "total_inactive_file"));
        Some(CgroupMemory {
            used: used.saturating_sub(cache.unwrap_or_default()),
            limit: limit.filter(|limit| *limit < 1 << 60),
        })
    }

    /// How often the kernel's out-of-memory killer has killed a process of this group; `None` when the kernel does not count it.
    pub fn oom_kills(&self) -> Option<u64> {
        field(&self.unified, "memory.events", "oom_kill")
            .or_else(|| field(&self.memory, "memory.oom_control", "oom_kill"))
    }

    /// CPU time used since the group was made.
    pub fn cpu_time(&self) -> Option<Duration> {
        let micros = field(&self.unified, "cpu.stat", "usage_usec").map(Duration::from_micros);
        micros.or_else(|| number(&self.cpuacct, "cpuacct.usage").map(Duration::from_nanos))
    }

    /// How many CPUs' worth of time the group may use; `None` without a limit.
    pub fn cpu_limit(&self) -> Option<f64> {
        let unified = read(&self.unified, "cpu.max");
        let (quota, period) = match unified.as_deref().and_then(|text| text.split_once(' ')) {
            Some((quota, period)) => (quota.parse().ok()?, period.trim().parse().ok()?),
            None => (number(&self.cpu, "cpu.cfs_quota_us")?, number(&self.cpu, "cpu.cfs_period_us")?),
        };
        (period > 0).then(|| quota as f64 / period as f64)
    }
}

/// The file in the first folder that has it.
fn read(folders: &[PathBuf], file: &str) -> Option<String> {
    folders.iter().find_map(|folder| fs::read_to_string(folder.join(file)).ok())
}

/// A file that holds one number; words such as `max` and negative numbers mean that there is no limit.
fn number(folders: &[PathBuf], file: &str) -> Option<u64> {
    read(folders, file)?.trim().parse().ok()
}

/// One line of a file of `name value`.
fn field(folders: &[PathBuf], file: &str, name: &str) -> Option<u64> {
    let text = read(folders, file)?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn version_2_is_read_from_the_own_group() {
        let root = tree(&[
            ("pod/memory.current", "400\n"),
            ("pod/memory.max", "1000\n"),
            ("pod/memory.stat", "anon 250\ninactive_file 150\nactive_file 0\n"),
            ("pod/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
            ("pod/cpu.max", "150000 100000\n"),
            ("pod/memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 9\n"),
            ("memory.events", "oom_kill 70\n"),
            ("memory.current", "9\n"),
        ]);
        let group = Cgroup::at(root.path(), "0::/pod\n");
        assert_eq!(group.memory(), Some(CgroupMemory { used: 250, limit: Some(1000) }));
        assert_eq!(group.cpu_time(), Some(Duration::from_millis(2500)));
        assert_eq!(group.cpu_limit(), Some(1.5));
        assert_eq!(group.oom_kills(), Some(3));
    }

    #[test]
    fn version_1_path_from_outside_the_container_falls_back_to_the_mount() {
        let root = tree(&[
            ("memory/memory.usage_in_bytes", "400\n"),
            ("memory/memory.limit_in_bytes", "1000\n"),
            ("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n"),
            ("cpuacct/cpuacct.usage", "3000000000\n"),
            ("cpu/cpu.cfs_quota_us", "50000\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ]);
        let group = Cgroup::at(root.path(), "9:cpu,cpuacct:/docker/abc\n8:memory:/docker/abc\n0::/\n");
        assert_eq!(group.memory(), Some(CgroupMemory { used: 300, limit: Some(1000) }));
        assert_eq!(group.cpu_time(), Some(Duration::from_secs(3)));
        assert_eq!(group.cpu_limit(), Some(0.5));
        assert_eq!(group.oom_kills(), Some(2));
    }

    #[test]
    fn no_limit_is_no_limit_in_both() {
        let two = tree(&[("memory.current", "400\n"), ("memory.max", "max\n"), ("cpu.max", "max 100000\n")]);
        let one = tree(&[
            ("memory/memory.usage_in_bytes", "400\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        for root in [two, one] {
            let group = Cgroup::at(root.path(), "");
            assert_eq!(group.memory(), Some(CgroupMemory { used: 400, limit: None }));
            assert_eq!(group.cpu_limit(), None);
        }
    }

    #[test]
    fn a_figure_that_the_kernel_does_not_give_is_absent() {
        let root = tree(&[("memory.max", "1000\n"), ("memory.events", "oom 1\n")]);
        let group = Cgroup::at(root.path(), "nonsense\n");
        assert_eq!((group.memory(), group.cpu_time(), group.cpu_limit()), (None, None, None));
        assert_eq!(group.oom_kills(), None);
    }
}
