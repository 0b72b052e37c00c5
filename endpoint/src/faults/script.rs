//! The language of fault scripts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Faults in one script.
const MAX_FAULTS: usize = 1000;

/// Why a script is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// The file cannot be read.
    #[error("cannot read the fault script {}: {error}; check the path", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        error: std::io::Error,
    },
    /// Not TOML, or not of this shape.
    #[error("the fault script is not understood: {}; see the example in the documentation", .0.message())]
    Syntax(#[from] toml::de::Error),
    /// A fault that cannot happen.
    #[error("fault {number} ({route:?} {kind:?}): {text}")]
    Fault {
        /// Its number in the script, from 1.
        number: usize,
        /// Where it strikes.
        route: FaultRoute,
        /// What it does.
        kind: FaultKind,
        /// What is wrong and what to write instead.
        text: &'static str,
    },
    /// Too long.
    #[error("a fault script may have at most {MAX_FAULTS} faults; use `times` and `chance` instead of repeating them")]
    TooMany,
}

/// A set of faults.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Decides every `chance`: the same seed and the same requests give the same faults.
    #[serde(default)]
    pub seed: u64,
    /// The faults; the first one that fits a request and strikes wins.
    #[serde(default)]
    pub fault: Vec<Fault>,
}

/// The worker route that a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultRoute {
    /// job-take and job-take-batch.
    JobTake,
    /// job-stop.
    JobStop,
    /// job-done, progress updates included.
    JobDone,
    /// job-stream.
    JobStream,
    /// Heartbeats.
    Ping,
    /// Jobs that a worker hands back.
    HandBack,
    /// A worker that leaves says so.
    Goodbye,
    /// The worker process itself, from the moment it has taken a job. Workers started by this program only.
    Worker,
}

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Answers a poll with 204 at once instead of holding it.
    Empty,
    /// Answers with `status`, and with `Retry-After` if `retry_after` is set.
    Status,
    /// Resets the connection instead of answering.
    Reset,
    /// Answers with 200 and broken JSON.
    Garbage,
    /// Does not answer for `after` (default 120 s).
    Hang,
    /// Answers properly, `after` later.
    Delay,
    /// Sends the proper answer at `bytes_per_second`.
    SlowBody,
    /// Hands out the job that was handed out last once more.
    Duplicate,
    /// Sends a stop signal for a job `after` it was taken; the job itself is not cancelled.
    Stop,
    /// SIGTERM `after` the worker took a job.
    Terminate,
    /// SIGKILL `after` the worker took a job.
    Kill,
}

/// One fault: where, what, and when.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which requests it affects.
    pub on: FaultRoute,
    /// What happens to them.
    pub kind: FaultKind,
    /// HTTP status, 400 to 599.
    pub status: Option<u16>,
    /// `Retry-After`.
    #[serde(default, deserialize_with = "time")]
    pub retry_after: Option<Duration>,
    /// See the kinds.
    #[serde(default, deserialize_with = "time")]
    pub after: Option<Duration>,
    /// See [`FaultKind::SlowBody`].
    pub bytes_per_second: Option<u32>,
    /// The endpoint acts on the request, only the answer goes wrong: the worker must cope with having succeeded
    /// without knowing.
    #[serde(default)]
    pub processed: bool,
    /// Spares the first requests that fit.
    #[serde(default)]
    pub skip: u64,
    /// Strikes at most this often. For ever if absent.
    pub times: Option<u64>,
    /// Strikes with this probability.
    pub chance: Option<f64>,
    /// Only requests of this worker id.
    pub worker: Option<String>,
    /// Only requests to this endpoint id.
    pub endpoint: Option<String>,
    /// Only from this time after the start.
    #[serde(default, deserialize_with = "time")]
    pub from: Option<Duration>,
    /// Only until this time after the start.
    #[serde(default, deserialize_with = "time")]
    pub until: Option<Duration>,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

impl Script {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is not a fault script.
    pub fn load(path: &Path) -> Result<Self, ScriptError> {
        let unreadable = |error| ScriptError::Unreadable { path: path.to_owned(), error };
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// When it is not a fault script.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let script: Self = toml::from_str(text)?;
        script.check()?;
        Ok(script)
    }

    /// Reads the header form: the array of faults alone, `[{on = "job-done", kind = "reset", times = 1}]`.
    ///
    /// # Errors
    /// When it is not a list of faults.
    pub fn parse_header(text: &str) -> Result<Self, ScriptError> {
        Self::parse(&format!("fault = {text}"))
    }

    fn check(&self) -> Result<(), ScriptError> {
        if self.fault.len() > MAX_FAULTS {
            return Err(ScriptError::TooMany);
        }
        for (index, fault) in self.fault.iter().enumerate() {
            if let Some(text) = fault.mistake() {
                return Err(ScriptError::Fault { number: index + 1, route: fault.on, kind: fault.kind, text });
            }
        }
        Ok(())
    }
}

impl Fault {
    fn mistake(&self) -> Option<&'static str> {
        use {FaultKind as Kind, FaultRoute as Route};
        let fits = match self.kind {
            Kind::Terminate | Kind::Kill => self.on == Route::Worker,
            Kind::Stop => self.on == Route::JobStop,
            Kind::Duplicate => self.on == Route::JobTake,
            Kind::Empty => matches!(self.on, Route::JobTake | Route::JobStop),
            _ => self.on != Route::Worker,
        };
        if !fits {
            return Some("this kind does not exist on this route; see the table of kinds in the documentation");
        }
        if (self.kind == Kind::Status) != self.status.is_some() {
            return Some("`status` belongs to the kind \"status\" and is needed there, for example status = 503");
        }
        if self.status.is_some_and(|status| !(400..=599).contains(&status)) {
            return Some("`status` must be 400 to 599");
        }
        if (self.kind == Kind::SlowBody) != self.bytes_per_second.is_some() || self.bytes_per_second == Some(0) {
            return Some("`bytes_per_second` belongs to the kind \"slow-body\" and is needed there, from 1 on");
        }
        if self.chance.is_some_and(|chance| !(0.0..=1.0).contains(&chance)) {
            return Some("`chance` must be 0.0 to 1.0");
        }
        if self.from.zip(self.until).is_some_and(|(from, until)| from >= until) {
            return Some("`until` must be later than `from`");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_with_their_fix() {
        for (text, part) in [
            ("[[fault]]\non = \"job-take\"\nkind = \"status\"", "status = 503"),
            ("[[fault]]\non = \"job-take\"\nkind = \"status\"\nstatus = 200", "400 to 599"),
            ("[[fault]]\non = \"ping\"\nkind = \"duplicate\"", "does not exist on this route"),
            ("[[fault]]\non = \"goodbye\"\nkind = \"empty\"", "does not exist on this route"),
            ("[[fault]]\non = \"ping\"\nkind = \"reset\"\nchance = 2.0", "0.0 to 1.0"),
            ("[[fault]]\non = \"ping\"\nkind = \"reset\"\nfrom = \"5s\"\nuntil = \"1s\"", "later than"),
            ("[[fault]]\non = \"ping\"\nkind = \"slow-body\"", "from 1 on"),
            ("[[fault]]\non = \"ping\"\nkind = \"reset\"\ntimess = 1", "timess"),
            ("[[fault]]\non = \"pong\"\nkind = \"reset\"", "pong"),
        ] {
            let error = Script::parse(text).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_header_is_a_list_of_faults() {
        let script = Script::parse_header(r#"[{on = "job-stop", kind = "stop", after = "3s"}]"#).unwrap();
        assert_eq!((script.fault[0].kind, script.fault[0].after), (FaultKind::Stop, Some(Duration::from_secs(3))));
        assert!(Script::parse_header("nonsense").is_err());
    }
}
