//! Fitness check: which libraries of libtorch and NVIDIA this process has loaded, and from which directories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use runpod_handler_protocol::CheckReport;

/// Prefixes of the names of libtorch's own libraries, which must all come from one build.
const TORCH: [&str; 2] = ["libtorch", "libc10"];
/// Prefixes of the names of the libraries that libtorch uses. `libcuda` covers the driver's and the runtime's library.
const DEPENDENCIES: [&str; 12] = [
    "libcublas",
    "libcuda",
    "libcudnn",
    "libcufft",
    "libcufile",
    "libcupti",
    "libcurand",
    "libcusolver",
    "libcusparse",
    "libgomp",
    "libnccl",
    "libnv",
];

/// All files that are mapped into this process.
pub(super) fn mapped() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..]))).collect()
}

/// Lists the libraries by directory; fails when libtorch's libraries come from several directories.
pub(super) fn check(files: &BTreeSet<PathBuf>) -> CheckReport {
    const NAME: &str = "libraries";
    let mut directories: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    let mut torch = BTreeSet::new();
    for file in files {
        let (Some(directory), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
            continue;
        };
        let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
        if starts(&TORCH) {
            torch.insert(directory);
        }
        if starts(&TORCH) || starts(&DEPENDENCIES) {
            directories.entry(directory).or_default().push(name);
        }
    }
    let listed: Vec<String> =
        directories.iter().map(|(directory, names)| format!("{}: {}", directory.display(), names.join(" "))).collect();
    let listed = listed.join("; ");
    if torch.len() > 1 {
        return CheckReport::failed(
            NAME,
            format!("libtorch is loaded from {} directories: {listed}", torch.len()),
            "keep only one libtorch in the image, and unset LD_LIBRARY_PATH",
        );
    }
    CheckReport::ok(NAME, listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> BTreeSet<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn libraries_are_listed_by_directory() {
        let report = check(&files(&[
            "/app/handler",
            "/lib/libc.so.6",
            "/lib/libcuda.so.1",
            "/t/lib/libc10.so",
            "/t/lib/libtorch_cpu.so",
            "/t/nvidia/cudnn/lib/libcudnn.so.9",
        ]));
        let listed = "/lib: libcuda.so.1; /t/lib: libc10.so libtorch_cpu.so; /t/nvidia/cudnn/lib: libcudnn.so.9";
        assert_eq!(report, CheckReport::ok("libraries", listed));
    }

    #[test]
    fn two_copies_of_libtorch_fail_the_check() {
        let report = check(&files(&["/a/libc10.so", "/b/libtorch_cpu.so"]));
        assert!(report.is_failure() && report.fix.contains("LD_LIBRARY_PATH"), "{report:?}");
        assert_eq!(report.detail, "libtorch is loaded from 2 directories: /a: libc10.so; /b: libtorch_cpu.so");
    }

    #[test]
    fn the_loaded_libtorch_is_found() {
        // Without a call into libtorch the linker would drop it.
        tch::manual_seed(1);
        let report = check(&mapped());
        assert!(!report.is_failure() && report.detail.contains("libtorch_cpu.so"), "{report:?}");
    }
}
