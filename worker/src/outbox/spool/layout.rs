//! Names of folders and files of a spool.

/// File whose lock says that the folder is in use.
pub(super) const LOCK: &str = "lock";
/// Folder of undelivered results.
pub(super) const RESULTS: &str = "results";
/// Folder of dead letters.
pub(in crate::outbox) const DEAD_LETTERS: &str = "dead-letters";
/// Folder of files that are not results.
pub(super) const ASIDE: &str = "set-aside";
/// Ending of a whole result.
pub(in crate::outbox) const RESULT: &str = ".result";
/// Ending of one that is being written.
pub(super) const TEMPORARY: &str = ".tmp";
/// Ending of the note beside a dead letter.
pub(in crate::outbox) const REASON: &str = ".reason";
/// File that is written and removed to find out whether the disk works.
pub(super) const PROBE: &str = "probe.tmp";

/// The number in a file's name.
pub(super) fn number(name: &str) -> Option<u64> {
    let stem =
        name.strip_suffix(RESULT).or_else(|| name.strip_suffix(TEMPORARY)).or_else(|| name.strip_suffix(REASON))?;
    stem.parse().ok()
}

/// The name of the file with this number.
pub(in crate::outbox) fn numbered(number: u64, ending: &str) -> String {
    format!("{number:012}{ending}")
}
