//! Disk space that is left where something will be written.

use std::path::Path;

use runpod_handler_protocol::CheckReport;

use super::gib;

/// At least `min_percent` of the file system that holds `folder`, or will hold it, must be free for this user.
pub(super) fn check(folder: &Path, min_percent: f64) -> CheckReport {
    const NAME: &str = "disk";
    let shown = folder.display();
    // What is only created later lies on the disk of the folder above.
    let nearest = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let space = match rustix::fs::statvfs(nearest) {
        Ok(space) => space,
        Err(error) => {
            return CheckReport::failed(
                NAME,
                format!("the disk of {shown} cannot be looked at: {error}"),
                "let this user see the folder, or choose another",
            );
        }
    };
    let (free, total) = (space.f_bavail, space.f_blocks);
    // Some network and overlay file systems do not know their size.
    if total == 0 {
        return CheckReport::skipped(NAME, format!("the file system of {shown} does not say how large it is"));
    }
    let percent = free as f64 * 100.0 / total as f64;
    let found = format!("{percent:.1} % of the disk of {shown} ({}) are free", gib(free * space.f_frsize));
    if percent < min_percent {
        return CheckReport::failed(
            NAME,
            format!("{found}, at least {min_percent} % are asked for"),
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
