//! The committed figures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Instructions for one operation of each row, and with what they were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// `rustc --version`: another compiler makes other instructions.
    pub rustc: String,
    /// `valgrind --version`.
    pub valgrind: String,
    /// By the name of the row.
    pub instructions: BTreeMap<String, u64>,
}

impl Baseline {
    /// The file in this repository.
    #[must_use]
    pub fn committed() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json")
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes such a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::write(path, serde_json::to_string_pretty(self)? + "\n").with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_baseline_can_be_read_and_has_every_kind_of_path() {
        let baseline = Baseline::read(&Baseline::committed()).unwrap();
        for path in ["frame", "core", "job-take", "result", "log line", "endpoint"] {
            let rows = baseline.instructions.iter().filter(|(name, _)| name.starts_with(&format!("{path}: ")));
            assert!(rows.clone().count() > 0, "no row of {path}");
            assert!(rows.clone().all(|(_, count)| *count > 0), "{path}");
        }
    }
}
