//! Puts a [`Config`] together.

use runpod_worker_core::Policy;

use super::alerts::alerts;
use super::conflicts::{self, Values};
use super::environment::Environment;
use super::http::http_bind;
use super::identity::{check_worker_id, identity};
use super::queue::queue;
use super::settings::{Settings, show_duration};
use super::spool::spool;
use super::{Config, ConfigErrors, RunArgs, checks, gpu, handler, logs, metrics, parse, ports, recycling, traces};
use crate::base::Identity;
use crate::http::limits::MAX_CONNECTIONS;
use crate::outbox::OutboxLimits;
use crate::queue::QueueConfig;

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
        let policy = recycling::recycling(&mut settings, &args.recycling, policy);
        let policy = checks::handler_checks(&mut settings, &args.checks, policy);
        let mut checks = checks::worker_checks(&mut settings, &args.checks);
        handler.devices = handler::devices(&mut settings, policy.processes);
        let http_bind = http_bind(&mut settings, args.http_bind.as_deref());
        let http_connections =
            settings.number("http-connections", args.http_connections.as_deref(), MAX_CONNECTIONS, 8..=4096);
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
        let log = logs::log(&mut settings, &args.logs, &identity);
        let log_sink = logs::sink(&mut settings, &args.logs, &identity);
        let traces = traces::traces(&mut settings, &args.traces, &identity);
        let alerts = alerts(&mut settings, &args.alerts);
        let tenant = metrics::tenant_field(&mut settings, &args.metrics);
        let tenant_limit = metrics::tenant_limit(&mut settings, &args.metrics);
        let policy = metrics::cost(&mut settings, &args.metrics, policy);
        let gpus = gpu::gpus(&mut settings, &args.gpu);
        let policy = gpu::probes(&mut settings, &args.gpu, policy);
        let ports = ports::ports(&mut settings);
        let (queue, heartbeat) = queue(&mut settings, &identity);
        let queue = queue.map(|queue| QueueConfig { tenant, ..queue });
        check_worker_id(&mut settings, &identity);
        let values = Values { policy: &policy, spool: &spool, gpus: &gpus, heartbeat: heartbeat.as_ref() };
        conflicts::check(&mut settings, &values);
        // Settings of `serve`; see `DirectConfig`.
        settings.know("RUNPOD_WORKER_BIND");
        settings.know("RUNPOD_WORKER_MAX_WAITING");
        settings.know("RUNPOD_WORKER_MAX_WAIT");
        settings.know("RUNPOD_WORKER_MAX_CONNECTIONS");
        settings.warn_of_unknown();
        if !settings.problems.is_empty() {
            return Err(ConfigErrors::new(settings.problems));
        }
        let Settings { description, warnings, .. } = settings;
        Ok(Self {
            queue,
            heartbeat,
            policy,
            checks,
            handler,
            outbox,
            spool,
            http_bind,
            http_connections,
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

/// The settings of job handling, shutdown and loading.
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
