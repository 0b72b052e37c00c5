//! Finds out whether a folder is a cargo workspace.

use std::fs;
use std::path::Path;

/// Whether the folder is the root of a cargo workspace.
pub(super) fn is_workspace(folder: &Path) -> bool {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    manifest.lines().any(|line| line.starts_with("[workspace]") || line.starts_with("[workspace."))
}
