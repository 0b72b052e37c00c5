//! One test or more for every way in which a job, its process or the start of one can fail. `docs/reliability.md` has the table.

mod jobs;
mod limits;
mod loading;
mod policy;
mod processes;
mod protocol;

use serde_json::Value;

/// The error object inside a FAILED job, or inside a result as the worker posts it.
pub(crate) fn error(job: &Value) -> Value {
    assert!(job["status"].is_null() || job["status"] == "FAILED", "{job}");
    let text = job["error"].as_str().unwrap_or_else(|| panic!("no error in {job}"));
    serde_json::from_str(text).unwrap()
}
