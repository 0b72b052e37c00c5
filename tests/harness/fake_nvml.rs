//! NVIDIA's management library without a GPU: a real shared library, so that a worker opens and calls it as it would the
//! driver's. See `fake_nvml.c` for the figures that it can report.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::{WorkerOptions, repository, run_tool};

/// A library in a folder of its own, and the file that it answers from.
#[derive(Debug)]
pub struct FakeNvml(TempDir);

impl FakeNvml {
    /// Builds one that reports these figures.
    ///
    /// # Panics
    /// When there is no C compiler.
    pub fn reporting(text: &str) -> Self {
        let fake = Self::broken();
        fake.report(text);
        let source = repository().join("tests/harness/fake_nvml.c");
        let (source, library) = (source.to_string_lossy().into_owned(), fake.library().to_string_lossy().into_owned());
        let built = run_tool(
            "cc",
            &["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", &library, &source],
        );
        assert!(built.status.success(), "cc failed: {}", String::from_utf8_lossy(&built.stderr));
        fake
    }

    /// A file with the library's name that is not a library; it hides one that the machine may have.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn broken() -> Self {
        let fake = TempDir::new().map(Self).unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        fake.write("libnvidia-ml.so.1", "");
        fake
    }

    /// Reports these figures from now on, all of them at once.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn report(&self, text: &str) {
        self.write("next", text);
        std::fs::rename(self.0.path().join("next"), self.figures()).unwrap_or_else(|error| panic!("rename: {error}"));
    }

    /// Options for a worker that finds it, and looks often.
    pub fn options(&self) -> WorkerOptions {
        WorkerOptions::flags(&["--gpu-interval", "100ms"])
            .env("LD_LIBRARY_PATH", &self.0.path().to_string_lossy())
            .env("FAKE_NVML", &self.figures().to_string_lossy())
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("libnvidia-ml.so.1")
    }

    fn figures(&self) -> PathBuf {
        self.0.path().join("figures")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
