//! The kernel's count of out-of-memory kills in this container, from cgroup v2 or v1.

use std::fs;
use std::path::{Path, PathBuf};

/// Where this container's counter lives, if the kernel shows one.
#[derive(Clone, Debug, Default)]
pub(super) struct OomCounter(Option<PathBuf>);

impl OomCounter {
    /// Finds the counter of the worker's own cgroup, which its handler processes share.
    pub(super) fn find() -> Self {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::find_in(Path::new("/sys/fs/cgroup"), &membership)
    }

    /// `membership` is the text of `/proc/self/cgroup`: lines of `hierarchy:controllers:path`. Inside a container the path
    /// often names a place outside of it, so the root of the mount is tried as well.
    fn find_in(mount: &Path, membership: &str) -> Self {
        let mut candidates = Vec::new();
        for line in membership.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                candidates.push(mount.join(path).join("memory.events"));
            } else if controllers.split(',').any(|name| name == "memory") {
                candidates.push(mount.join("memory").join(path).join("memory.oom_control"));
            }
        }
        candidates.push(mount.join("memory.events"));
        candidates.push(mount.join("memory/memory.oom_control"));
        Self(candidates.into_iter().find(|path| read(path).is_some()))
    }

    /// Kills so far; `None` when the kernel does not say.
    pub(super) fn kills(&self) -> Option<u64> {
        read(self.0.as_deref()?)
    }
}

/// Both files hold lines of `name value`; `oom_kill` has one spelling in both.
fn read(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn version_2_counter_of_the_own_group() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "pod/memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 9\n");
        write(root.path(), "memory.events", "oom_kill 70\n");
        assert_eq!(OomCounter::find_in(root.path(), "0::/pod\n").kills(), Some(3));
    }

    #[test]
    fn version_1_path_from_outside_the_container_falls_back_to_the_mount() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        let counter = OomCounter::find_in(root.path(), "9:cpu,cpuacct:/x\n8:memory:/docker/abc\n");
        assert_eq!(counter.kills(), Some(2));
        write(root.path(), "memory/memory.oom_control", "oom_kill 5\n");
        assert_eq!(counter.kills(), Some(5));
    }

    #[test]
    fn absent_counter_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(OomCounter::find_in(root.path(), "0::/\nnonsense\n").kills(), None);
        write(root.path(), "memory.events", "oom 1\n");
        assert_eq!(OomCounter::find_in(root.path(), "0::/\n").kills(), None);
    }
}
