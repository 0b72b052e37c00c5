//! Which of libtorch's and NVIDIA's libraries this process has loaded, and where the linker found them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use runpod_handler_protocol::CheckReport;

/// How the names of libtorch's own libraries begin; all must come from one build.
const TORCH: [&str; 2] = ["libtorch", "libc10"];
/// Those that it brings or needs. `libcuda` covers the driver's and the runtime's.
const NEIGHBOURS: [&str; 12] = [
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

/// Every file that is mapped into this process.
pub(super) fn mapped() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..]))).collect()
}

/// Names each library with its folder; fails when libtorch's come from several.
pub(super) fn check(files: &BTreeSet<PathBuf>) -> CheckReport {
    const NAME: &str = "libraries";
    let mut folders: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    let mut torch = BTreeSet::new();
    for file in files {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
            continue;
        };
        let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
        if starts(&TORCH) {
            torch.insert(folder);
        }
        if starts(&TORCH) || starts(&NEIGHBOURS) {
            folders.entry(folder).or_default().push(name);
        }
    }
    let listed: Vec<String> =
        folders.iter().map(|(folder, names)| format!("{}: {}", folder.display(), names.join(" "))).collect();
    let listed = listed.join("; ");
    if torch.len() > 1 {
        return CheckReport::failed(
            NAME,
            format!("libtorch is loaded from {} folders: {listed}", torch.len()),
            "keep one libtorch in the image, and unset LD_LIBRARY_PATH",
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
    fn each_library_is_named_with_its_folder() {
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
    fn two_copies_of_libtorch_are_a_failure() {
        let report = check(&files(&["/a/libc10.so", "/b/libtorch_cpu.so"]));
        assert!(report.is_failure() && report.fix.contains("LD_LIBRARY_PATH"), "{report:?}");
        assert_eq!(report.detail, "libtorch is loaded from 2 folders: /a: libc10.so; /b: libtorch_cpu.so");
    }

    #[test]
    fn the_running_libtorch_is_found() {
        // A call into libtorch, so that the linker keeps it.
        tch::manual_seed(1);
        let report = check(&mapped());
        assert!(!report.is_failure() && report.detail.contains("libtorch_cpu.so"), "{report:?}");
    }
}
