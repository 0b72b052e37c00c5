//! Free disk space in the folders that the worker writes to.

use std::path::Path;

use runpod_handler_protocol::CheckReport;

use super::gib;

/// At least `min_percent` of the file system that holds `folder`, or will hold it, must be free for this user.
pub(super) fn check(folder: &Path, min_percent: f64) -> CheckReport {
    const NAME: &str = "disk";
    let shown = folder.display();
    // A folder that does not exist yet will be on the disk of its parent.
    let nearest = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let space = match rustix::fs::statvfs(nearest) {
        Ok(space) => space,
        Err(error) => {
            return CheckReport::failed(
                NAME,
                format!("the free space on the disk of {shown} cannot be read: {error}"),
                "let this user see the folder, or choose another",
            );
        }
    };
    let (free, total) = (space.f_bavail, space.f_blocks);
    // Some network and overlay file systems do not know their size.
    if total == 0 {
        return CheckReport::skipped(NAME, format!("the file system of {shown} does not report its size"));
    }
    let percent = free as f64 * 100.0 / total as f64;
    let found = format!("{percent:.1} % of the disk of {shown} ({}) are free", gib(free * space.f_frsize));
    if percent < min_percent {
        return CheckReport::failed(
            NAME,
            format!("{found}, at least {min_percent} % are required"),
            "give the container a larger disk, remove files, or lower RUNPOD_MIN_DISK_PERCENT",
        );
    }
    CheckReport::ok(NAME, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_yet_to_be_created_counts_where_it_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let report = check(&folder.path().join("spool/w1"), 0.0);
        assert!(!report.is_failure() && report.detail.contains("spool/w1"), "{report:?}");
    }
}
