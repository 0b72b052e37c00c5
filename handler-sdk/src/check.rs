//! Fitness checks that a handler defines itself.

use std::fmt;
use std::path::PathBuf;

use runpod_handler_protocol::CheckReport;

use crate::error::HandlerError;
use crate::panics;
use crate::text::cut;

/// Longest detail of a check report that is sent, in bytes.
pub(crate) const MAX_DETAIL: usize = 2 * 1024;

/// A fitness check: one condition that must hold before the worker takes jobs; see [`Handler::checks`](crate::Handler::checks).
///
/// ```no_run,standalone_crate
/// use runpod_handler_sdk::{Check, HandlerError};
///
/// fn checks() -> Vec<Check> {
///     vec![
///         Check::files("weights", ["/models/encoder.safetensors", "/models/tokenizer.json"])
///             .fix("run `make model`"),
///         Check::new("licence", || match std::env::var("MODEL_LICENCE") {
///             Ok(_) => Ok("set".to_owned()),
///             Err(_) => Err(HandlerError::from("MODEL_LICENCE is not set")),
///         })
///         .fix("set MODEL_LICENCE in the endpoint's environment"),
///     ]
/// }
/// ```
pub struct Check {
    name: String,
    fix: String,
    test: Box<dyn FnOnce() -> Result<String, HandlerError> + Send>,
}

impl Check {
    /// A check with a short name. It passes when `test` returns a few words on what it found, and fails when `test` returns an
    /// error or panics.
    pub fn new(name: impl Into<String>, test: impl FnOnce() -> Result<String, HandlerError> + Send + 'static) -> Self {
        Self { name: name.into(), fix: String::new(), test: Box::new(test) }
    }

    /// A check that each file exists, can be read and is not empty.
    pub fn files<P: Into<PathBuf>>(name: impl Into<String>, files: impl IntoIterator<Item = P>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().map(Into::into).collect();
        Self::new(name, move || {
            let problems: Vec<String> = files.iter().filter_map(file_problem).collect();
            match problems.is_empty() {
                true => Ok(format!("{} files", files.len())),
                false => Err(problems.join(", ").into()),
            }
        })
    }

    /// What to do when the check fails; shown with the failure.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    pub(crate) fn run(self) -> CheckReport {
        let Self { name, fix, test } = self;
        match panics::catch("the check", test).and_then(|result| result) {
            Ok(detail) => CheckReport::ok(name, cut(&detail, MAX_DETAIL)),
            Err(error) => CheckReport::failed(name, cut(error.message(), MAX_DETAIL), fix),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).field("fix", &self.fix).finish_non_exhaustive()
    }
}

fn file_problem(path: &PathBuf) -> Option<String> {
    let problem = match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => return None,
        Ok(metadata) if metadata.is_file() => "it is empty".to_owned(),
        Ok(_) => "it is not a file".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_passes_fails_or_panics() {
        let passed = Check::new("a", || Ok("fine".to_owned())).run();
        assert_eq!(passed, CheckReport::ok("a", "fine"));
        let failed = Check::new("b", || Err("too small".into())).fix("buy a bigger one").run();
        assert_eq!(failed.reason(), "too small: buy a bigger one");
        let panicked = Check::new("c", || panic!("oh no")).run();
        assert!(panicked.is_failure() && panicked.detail.contains("oh no"), "{panicked:?}");
    }

    #[test]
    fn files_must_exist_and_not_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let (good, empty) = (folder.path().join("good"), folder.path().join("empty"));
        std::fs::write(&good, "x").unwrap();
        std::fs::write(&empty, "").unwrap();
        assert!(!Check::files("files", [&good]).run().is_failure());
        let missing = folder.path().join("missing");
        let report = Check::files("files", [&good, &empty, &missing, &folder.path().to_owned()]).run();
        for words in ["empty: it is empty", "missing: No such file", "it is not a file"] {
            assert!(report.detail.contains(words), "{report:?}");
        }
        assert!(!report.detail.contains("good"), "{report:?}");
    }
}
