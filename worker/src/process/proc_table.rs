//! The processes of this machine or container, as `/proc` shows them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    parent: i32,
    /// It has exited and waits to be reaped.
    is_zombie: bool,
}

/// A snapshot of all processes, by process id.
#[derive(Debug, Default)]
pub(super) struct ProcTable(BTreeMap<i32, Entry>);

impl ProcTable {
    /// Reads `/proc`. Without it the table is empty.
    pub(super) fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // A process may exit at any time; it is missing then.
        Self(pids.filter_map(|pid| Some((pid, read_entry(pid)?))).collect())
    }

    pub(super) fn children(&self, parent: i32) -> impl Iterator<Item = i32> {
        self.0.iter().filter(move |(_, entry)| entry.parent == parent).map(|(pid, _)| *pid)
    }

    /// Whether a process runs; one that waits to be reaped does not.
    pub(super) fn runs(&self, pid: i32) -> bool {
        self.0.get(&pid).is_some_and(|entry| !entry.is_zombie)
    }

    /// A process and everything below it that runs.
    pub(super) fn tree(&self, root: i32) -> Vec<i32> {
        let mut tree = vec![root];
        let mut next = 0;
        while let Some(parent) = tree.get(next).copied() {
            tree.extend(self.children(parent).filter(|pid| !tree.contains(pid)).collect::<Vec<_>>());
            next += 1;
        }
        tree.retain(|pid| self.runs(*pid));
        tree
    }

    /// Every process that runs.
    pub(super) fn running(&self) -> impl Iterator<Item = i32> {
        self.0.keys().copied().filter(|pid| self.runs(*pid))
    }
}

/// Reads the line of a process with one call, because that of every process is read. What is looked for is at its beginning.
fn read_entry(pid: i32) -> Option<Entry> {
    let mut line = [0; 512];
    let len = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    // The name of a process is any sequence of bytes.
    parse(&String::from_utf8_lossy(&line[..len]))
}

/// Whether a process has children. Where the kernel can tell it of this process alone, no other is looked at.
pub(super) fn has_children(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    match lists.is_empty() {
        true => ProcTable::read().children(pid).next().is_some(),
        false => lists.iter().any(|list| !list.trim().is_empty()),
    }
}

/// The line of `/proc/PID/stat`: `pid (name) state parent …`, where the name may contain anything.
fn parse(stat: &str) -> Option<Entry> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    Some(Entry { parent: fields.next()?.parse().ok()?, is_zombie: matches!(state, "Z" | "X") })
}

/// Whether the environment with which a process was started sets this variable to a path that `is_wanted`.
pub(super) fn has_path_in_environment(pid: i32, name: &str, is_wanted: impl Fn(&Path) -> bool) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| {
        let value = variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| is_wanted(Path::new(std::ffi::OsStr::from_bytes(value))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        assert_eq!(parse("7 (a) R (b) c) S 3 7 7 0"), Some(Entry { parent: 3, is_zombie: false }));
        assert_eq!(parse("7 (sh) Z 3 7 7 0"), Some(Entry { parent: 3, is_zombie: true }));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn a_process_with_children_is_known_as_one_and_one_that_is_gone_is_not() {
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert!(has_children(parent), "this process is a child of its parent");
        assert!(!has_children(i32::MAX));
        assert_eq!(read_entry(std::process::id().cast_signed()), Some(Entry { parent, is_zombie: false }));
    }

    #[test]
    fn a_tree_holds_what_runs_below_its_root() {
        let entry = |parent, is_zombie| Entry { parent, is_zombie };
        let table = ProcTable(
            [
                (1, entry(0, false)),
                (2, entry(1, false)),
                (3, entry(2, true)),
                (4, entry(3, false)),
                (5, entry(1, false)),
            ]
            .into(),
        );
        assert_eq!(table.tree(2), [2, 4], "what is below a process that waits to be reaped counts");
        assert_eq!(table.children(1).collect::<Vec<_>>(), [2, 5]);
        assert!(ProcTable::read().runs(std::process::id().cast_signed()));
    }
}
