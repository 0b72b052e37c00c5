//! Puts a [`Config`] together.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use reqwest::header::HeaderValue;
use uuid::Uuid;

use super::alerts::alerts;
use super::environment::Environment;
use super::settings::{Settings, describe, show_duration};
use super::spool::spool;
use super::{Config, ConfigErrors, RunArgs, handler, limits, metrics, parse, runtime, telemetry, upkeep};
use crate::base::{ClientError, Identity, Secret, UrlTemplate};
use crate::heartbeat::HeartbeatConfig;
use crate::outbox::OutboxLimits;
use crate::queue::QueueConfig;
use runpod_worker_core::Policy;

/// Interval of RunPod's SDK.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Below this RunPod's SDK stops pinging altogether.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(1);

impl Config {
    /// Reads everything from `args` and `env`.
    ///
    /// # Errors
    /// Every mistake at once. Nothing has been started or opened by then.
    pub fn load(args: &RunArgs, env: &impl Environment) -> Result<Self, ConfigErrors> {
        let mut settings = Settings::new(env);
        let mut handler = handler::find(&mut settings, &args.handler);
        let identity = identity(&mut settings);
        let policy = policy(&mut settings, args, &identity);
        let policy = upkeep::policy(&mut settings, &args.upkeep, policy);
        let mut checks = upkeep::checks(&mut settings, &args.upkeep);
        handler.devices = handler::devices(&mut settings, policy.processes);
        let http_bind = http_bind(&mut settings, args.http_bind.as_deref());
        let outbox = OutboxLimits {
            max_bytes: settings.number(
                "outbox-limit-bytes",
                args.outbox_limit_bytes.as_deref(),
                OutboxLimits::default().max_bytes,
                1024 * 1024..=1 << 40,
            ),
            ..OutboxLimits::default()
        };
        let spool = spool(&mut settings, args, &identity);
        checks.folders.extend(spool.folder.clone());
        let stop_with_stdin = settings.read(
            "stop-with-stdin",
            args.stop_with_stdin.as_deref(),
            &[],
            false,
            parse::boolean,
            bool::to_string,
        );
        let log = telemetry::log(&mut settings, &args.telemetry, &identity);
        let log_sink = telemetry::sink(&mut settings, &args.telemetry, &identity);
        let traces = telemetry::traces(&mut settings, &args.telemetry, &identity);
        let alerts = alerts(&mut settings, &args.alerts);
        let tenant = metrics::tenant_field(&mut settings, &args.metrics);
        let tenant_limit = metrics::tenant_limit(&mut settings, &args.metrics);
        let policy = metrics::cost(&mut settings, &args.metrics, policy);
        limits::show(&mut settings, &policy);
        let gpus = runtime::gpus(&mut settings, &args.runtime);
        let ports = runtime::ports(&mut settings);
        let (queue, heartbeat) = queue(&mut settings, &identity);
        let queue = queue.map(|queue| QueueConfig { tenant, ..queue });
        // Settings of `serve`; see `DirectConfig`.
        settings.know("RUNPOD_WORKER_BIND");
        settings.know("RUNPOD_WORKER_MAX_WAITING");
        settings.know("RUNPOD_WORKER_MAX_WAIT");
        settings.warn_of_unknown();
        if !settings.problems.is_empty() {
            return Err(ConfigErrors::new(settings.problems));
        }
        let description = describe(&settings.shown);
        let warnings = settings.warnings;
        Ok(Self {
            queue,
            heartbeat,
            policy,
            checks,
            handler,
            outbox,
            spool,
            http_bind,
            stop_with_stdin,
            tenant_limit,
            log,
            log_sink,
            traces,
            alerts,
            gpus,
            ports,
            identity,
            warnings,
            description,
        })
    }
}

pub(super) fn http_bind<E: Environment>(settings: &mut Settings<'_, E>, flag: Option<&str>) -> Option<SocketAddr> {
    let default = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8001)));
    settings.read("http-bind", flag, &[], default, parse::bind, |bind| {
        bind.map_or_else(|| "none".to_owned(), |address| address.to_string())
    })
}

pub(super) fn identity<E: Environment>(settings: &mut Settings<'_, E>) -> Identity {
    let worker_id = settings.variable("RUNPOD_POD_ID").unwrap_or_else(|| {
        let id = Uuid::new_v4().to_string();
        settings.show("runpod-pod-id", &id, "random: RUNPOD_POD_ID is not set");
        id
    });
    Identity {
        worker_id,
        hostname: settings.variable("RUNPOD_POD_HOSTNAME").unwrap_or_else(|| "unknown".to_owned()),
        endpoint_id: settings.variable("RUNPOD_ENDPOINT_ID"),
    }
}

fn policy<E: Environment>(settings: &mut Settings<'_, E>, args: &RunArgs, identity: &Identity) -> Policy {
    let default = Policy::default();
    Policy {
        worker_id: identity.worker_id.clone(),
        slots: settings.number("slots", args.slots.as_deref(), default.slots, 1..=1024),
        processes: settings.number("processes", args.processes.as_deref(), default.processes, 1..=64),
        prefetch: settings.number("prefetch", args.prefetch.as_deref(), default.prefetch, 0..=1024),
        device: settings.read(
            "device",
            args.device.as_deref(),
            &[],
            default.device,
            |text| parse::word(text, &["auto", "cpu", "cuda"]),
            String::clone,
        ),
        job_timeout: settings.read(
            "job-timeout",
            args.job_timeout.as_deref(),
            &[],
            default.job_timeout,
            parse::timeout,
            show_duration,
        ),
        cancel_grace: settings.duration("cancel-grace", args.cancel_grace.as_deref(), default.cancel_grace),
        drain_grace: settings.duration("drain-grace", args.drain_grace.as_deref(), default.drain_grace),
        flush_grace: settings.duration("flush-grace", args.flush_grace.as_deref(), default.flush_grace),
        load_stall_timeout: settings.read(
            "load-stall-timeout",
            args.load_stall_timeout.as_deref(),
            &["RUNPOD_INIT_TIMEOUT"],
            default.load_stall_timeout,
            parse::timeout_in_seconds,
            show_duration,
        ),
        ..Policy::default()
    }
}

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
    let heartbeat = heartbeat(settings, identity, &key);
    let worker_id = identity.worker_id.clone();
    let queue = take.zip(done).map(|(take, done)| QueueConfig { take, done, stream, key, worker_id, tenant: None });
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
            .push("RUNPOD_AI_API_KEY is not set: requests carry no key, and the platform gets no heartbeat".to_owned());
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
) -> Option<HeartbeatConfig> {
    const PING: &str = "RUNPOD_WEBHOOK_PING";
    let interval = ping_interval(settings);
    settings.env.get(PING)?;
    let url = template(settings, identity, PING)?;
    if settings.env.get("RUNPOD_POD_ID").is_none() {
        settings.warnings.push("RUNPOD_POD_ID is not set: the platform gets no heartbeat".to_owned());
        return None;
    }
    let (worker_id, key) = (identity.worker_id.clone(), key.clone());
    (!key.is_empty()).then_some(HeartbeatConfig { url, worker_id, interval, key })
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
            settings.problems.push(format!("{VARIABLE}: `{text}` cannot be used: it counts milliseconds: {fix}"));
            return PING_INTERVAL;
        }
    };
    if interval < PING_INTERVAL_MIN {
        settings.warnings.push(format!("{VARIABLE} counts milliseconds and is below 1000: 1000 is used"));
    }
    let interval = interval.max(PING_INTERVAL_MIN);
    settings.show("ping-interval", &show_duration(&interval), VARIABLE);
    interval
}
