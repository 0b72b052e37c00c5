//! The queue and the heartbeat, from the variables of the platform.

use std::time::Duration;

use reqwest::header::HeaderValue;

use super::environment::Environment;
use super::parse;
use super::settings::{Settings, show_duration};
use crate::base::{ClientError, Identity, Secret, UrlTemplate};
use crate::heartbeat::HeartbeatConfig;
use crate::queue::{Extensions, QueueConfig};

/// Interval of RunPod's SDK.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Shortest interval. RunPod's SDK sends no pings below it.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The queue and the heartbeat, unless `RUNPOD_WEBHOOK_GET_JOB` is not set.
pub(super) fn queue<E: Environment>(
    settings: &mut Settings<'_, E>,
    identity: &Identity,
) -> (Option<QueueConfig>, Option<HeartbeatConfig>) {
    const TAKE: &str = "RUNPOD_WEBHOOK_GET_JOB";
    const DONE: &str = "RUNPOD_WEBHOOK_POST_OUTPUT";
    // The second name is the one in the sample file of RunPod's SDK.
    const STREAM: [&str; 2] = ["RUNPOD_WEBHOOK_POST_STREAM", "RUNPOD_WEBHOOK_JOB_STREAM"];
    if !settings.env.is_set(TAKE) {
        settings.show("queue", "none", "RUNPOD_WEBHOOK_GET_JOB is not set");
        return (None, None);
    }
    let key = key(settings);
    let take = template(settings, identity, TAKE);
    let done = template(settings, identity, DONE);
    let stream = STREAM.iter().copied().find(|name| settings.env.get(name).is_some());
    let stream = stream.and_then(|name| template(settings, identity, name));
    let extensions = Extensions::default();
    let heartbeat = heartbeat(settings, identity, &key, &extensions);
    let worker_id = identity.worker_id.clone();
    let queue =
        take.zip(done).map(|(take, done)| QueueConfig { take, done, stream, key, worker_id, extensions, tenant: None });
    (queue, heartbeat)
}

fn key<E: Environment>(settings: &mut Settings<'_, E>) -> Secret {
    let key = Secret::new(&settings.env.get("RUNPOD_AI_API_KEY").unwrap_or_default());
    if HeaderValue::from_str(key.expose()).is_err() {
        settings.problems.push(ClientError::Key.to_string());
    }
    if key.is_empty() {
        settings
            .warnings
            .push("RUNPOD_AI_API_KEY is not set: requests carry no key, and no heartbeats are sent".to_owned());
    }
    settings.show("key", &key.to_string(), "RUNPOD_AI_API_KEY");
    key
}

fn template<E: Environment>(settings: &mut Settings<'_, E>, identity: &Identity, name: &str) -> Option<UrlTemplate> {
    let Some(raw) = settings.env.raw(name) else {
        settings.problems.push(format!("{name} is not set: set it to the URL that belongs to RUNPOD_WEBHOOK_GET_JOB"));
        return None;
    };
    match UrlTemplate::new(&raw, &identity.worker_id, settings.env.get("RUNPOD_GPU_TYPE_ID").as_deref()) {
        Ok(template) => {
            settings.show(&name.to_ascii_lowercase().replace('_', "-"), &template.to_string(), name);
            Some(template)
        }
        Err(error) => {
            settings.problems.push(format!("{name} {error}"));
            None
        }
    }
}

/// As in RunPod's SDK there is a heartbeat only with a URL, a worker id and a key.
fn heartbeat<E: Environment>(
    settings: &mut Settings<'_, E>,
    identity: &Identity,
    key: &Secret,
    extensions: &Extensions,
) -> Option<HeartbeatConfig> {
    const PING: &str = "RUNPOD_WEBHOOK_PING";
    let interval = ping_interval(settings);
    settings.env.get(PING)?;
    let url = template(settings, identity, PING)?;
    if settings.env.get("RUNPOD_POD_ID").is_none() {
        settings.warnings.push("RUNPOD_POD_ID is not set: no heartbeats are sent".to_owned());
        return None;
    }
    let (worker_id, key, extensions) = (identity.worker_id.clone(), key.clone(), extensions.clone());
    (!key.is_empty()).then_some(HeartbeatConfig { url, worker_id, interval, key, extensions })
}

fn ping_interval<E: Environment>(settings: &mut Settings<'_, E>) -> Duration {
    const VARIABLE: &str = "RUNPOD_PING_INTERVAL";
    let Some(text) = settings.env.get(VARIABLE) else {
        settings.show("ping-interval", &show_duration(&PING_INTERVAL), "default");
        return PING_INTERVAL;
    };
    let interval = match parse::number(&text, &(0..=3_600_000)) {
        Ok(millis) => Duration::from_millis(millis),
        Err(fix) => {
            settings.problems.push(format!("{VARIABLE}: `{text}` cannot be used: it is in milliseconds: {fix}"));
            return PING_INTERVAL;
        }
    };
    if interval < PING_INTERVAL_MIN {
        settings.warnings.push(format!("{VARIABLE} is in milliseconds and below 1000: 1000 is used"));
    }
    let interval = interval.max(PING_INTERVAL_MIN);
    settings.show("ping-interval", &show_duration(&interval), VARIABLE);
    interval
}
