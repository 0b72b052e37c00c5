//! Downloads from servers that misbehave, and uploads to a real S3 server.

mod downloads;
mod servers;
mod uploads;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use runpod_address_guard::{Lookup, system_lookup};
use serde_json::value::RawValue;

use super::context::{Context, Shared};
use super::settings::Settings;
use crate::job::Job;
use crate::running_job::RunningJob;

/// Settings by these variables.
fn shared(variables: &[(&str, &str)]) -> Arc<Shared> {
    shared_with(variables, system_lookup())
}

fn shared_with(variables: &[(&str, &str)], lookup: Lookup) -> Arc<Shared> {
    let variables: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let settings = Settings::from_environment(|name| variables.get(name).cloned());
    Arc::new(Shared::new(settings, lookup).unwrap())
}

fn running(id: &str, time_left: Duration) -> Arc<RunningJob> {
    Arc::new(RunningJob::new(id.to_owned(), 1, None, time_left, 1))
}

/// What the SDK's file functions get of a job that has a minute left.
fn context(shared: &Arc<Shared>) -> Context {
    Context { running: running("job-1", Duration::from_secs(60)), shared: Arc::clone(shared) }
}

/// A job that has a minute left, with these fields beside its input.
fn job(id: &str, fields: &serde_json::Value) -> Job<()> {
    let fields: HashMap<String, Box<RawValue>> = serde_json::from_value(fields.clone()).unwrap();
    Job::new(running(id, Duration::from_secs(60)), Arc::default(), fields)
}

const LOOPBACK: &str = "127.0.0.0/8";
