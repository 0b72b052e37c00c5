//! Disk space that is left where something will be written.

use std::path::Path;

use runpod_handler_protocol::CheckReport;

use super::gib;

/// At least `min_percent` of the file system that holds `folder` must be free for this user.
pub(super) fn check(folder: &Path, min_percent: f64) -> CheckReport {
    const NAME: &str = "disk";
    let shown = folder.display();
    let space = match rustix::fs::statvfs(folder) {
        Ok(space) => space,
        Err(error) => {
            return CheckReport::failed(
                NAME,
                format!("the disk of {shown} cannot be looked at: {error}"),
                "create the folder, or let this user see it",
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
    fn a_folder_that_is_missing_is_a_failure() {
        let report = check(Path::new("/no/such/folder"), 0.0);
        assert!(report.is_failure() && report.detail.contains("/no/such/folder"), "{report:?}");
    }
}
