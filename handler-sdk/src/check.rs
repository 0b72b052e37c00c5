//! Fitness checks: the handler's own and the device's, made once before a model is built.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use runpod_handler_protocol::{CheckOrder, CheckReport, ToSupervisor};

use crate::load_env::Shared;
use crate::outgoing::Outgoing;
use crate::text::{cut, log};
use crate::{Handler, HandlerError, LoadEnv, panics};

/// Longest text of a check that is sent, in bytes.
const MAX_TEXT: usize = 2 * 1024;

/// One condition that must hold before the worker takes jobs; see [`Handler::checks`].
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
    /// A check with a short name. It passes with a few words on what was found, and fails with an error (or a panic).
    pub fn new(name: impl Into<String>, test: impl FnOnce() -> Result<String, HandlerError> + Send + 'static) -> Self {
        Self { name: name.into(), fix: String::new(), test: Box::new(test) }
    }

    /// Checks that files are there, can be read and are not empty.
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

    /// What to do when it fails; shown with the failure.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    fn run(self) -> CheckReport {
        let Self { name, fix, test } = self;
        match panics::catch("the check", test).and_then(|result| result) {
            Ok(detail) => CheckReport::ok(name, cut(&detail, MAX_TEXT)),
            Err(error) => CheckReport::failed(name, cut(error.message(), MAX_TEXT), fix),
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
        Ok(_) => "it is no file".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!("{}: {problem}", path.display()))
}

/// The outcome of the checks; slots wait for it before they load.
#[derive(Debug, Default)]
pub(crate) struct Fitness {
    fit: Mutex<Option<bool>>,
    decided: Condvar,
}

impl Fitness {
    /// Waits until the checks are over. The supervisor bounds the wait: it kills a process that takes too long to load.
    pub(crate) fn is_fit(&self) -> bool {
        let undecided = |fit: &mut Option<bool>| fit.is_none();
        let fit = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = self.decided.wait_while(fit, undecided).unwrap_or_else(PoisonError::into_inner);
        *fit == Some(true)
    }

    fn decide(&self, fit: bool) {
        *self.fit.lock().unwrap_or_else(PoisonError::into_inner) = Some(fit);
        self.decided.notify_all();
    }
}

/// Makes all checks, tells the supervisor and the slots. Runs on a thread of its own.
pub(crate) fn run_checks<H: Handler>(order: &CheckOrder, outgoing: &Arc<Outgoing>, fitness: &Fitness) {
    let env = LoadEnv {
        slot: 0,
        slots: 1,
        worker_id: order.worker_id.clone(),
        requested_device: order.device.clone(),
        device: OnceLock::new(),
        outgoing: Arc::clone(outgoing),
        shared: Arc::<Shared>::default(),
    };
    // The handler's own first, as RunPod does: they name the more useful reason.
    let mut reports: Vec<CheckReport> = match panics::catch("Handler::checks", || H::checks(&env)) {
        Ok(checks) => checks.into_iter().map(Check::run).collect(),
        Err(error) => vec![CheckReport::failed("handler", cut(error.message(), MAX_TEXT), "")],
    };
    #[cfg(feature = "torch")]
    reports.extend(crate::torch::device_checks(order));
    #[cfg(not(feature = "torch"))]
    reports.push(CheckReport::skipped("device", "the handler was built without the feature `torch`"));

    for report in reports.iter().filter(|report| report.is_failure()) {
        log(format_args!("check {} failed: {}", report.name, report.reason()));
    }
    match serde_json::to_vec(&reports) {
        Ok(payload) => outgoing.push(&ToSupervisor::Checked, Bytes::from(payload)),
        Err(error) => log(format_args!("the outcome of the checks cannot be written: {error}")),
    }
    fitness.decide(!reports.iter().any(CheckReport::is_failure));
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
    fn files_must_be_there_and_not_empty() {
        let folder = tempfile::tempdir().unwrap();
        let (good, empty) = (folder.path().join("good"), folder.path().join("empty"));
        std::fs::write(&good, "x").unwrap();
        std::fs::write(&empty, "").unwrap();
        assert!(!Check::files("files", [&good]).run().is_failure());
        let missing = folder.path().join("missing");
        let report = Check::files("files", [&good, &empty, &missing, &folder.path().to_owned()]).run();
        for words in ["empty: it is empty", "missing: No such file", "it is no file"] {
            assert!(report.detail.contains(words), "{report:?}");
        }
        assert!(!report.detail.contains("good"), "{report:?}");
    }

    #[test]
    fn slots_wait_for_the_outcome() {
        let fitness = Fitness::default();
        std::thread::scope(|scope| {
            let slot = scope.spawn(|| fitness.is_fit());
            fitness.decide(true);
            assert!(slot.join().unwrap());
        });
    }
}
