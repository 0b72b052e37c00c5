//! The limits that cannot be set, as `--check-config` lists them after the settings.

use std::time::Duration;

use runpod_worker_core::Policy;

use crate::base::{FixedLimit, LimitValue};
use crate::config::{Config, Description};
use crate::outbox::OutboxLimits;
use crate::{app, base, direct, dispatcher, heartbeat, http, queue};

/// Every part that declares limits of its own.
const PARTS: [&[FixedLimit]; 7] = [
    app::LIMITS,
    dispatcher::LIMITS,
    queue::limits::LIMITS,
    heartbeat::limits::LIMITS,
    http::limits::LIMITS,
    direct::limits::LIMITS,
    base::LIMITS,
];

/// The fixed limits of the core, of the outbox, and of every part that declares its own.
pub(super) fn fixed_limits(config: &Config) -> Description {
    let declared = PARTS.into_iter().flatten();
    let declared = declared.map(|limit| (format!("{}.{}", limit.part, dashed(limit.name)), (limit.value)()));
    Description::of_fixed(of_core(&config.policy).into_iter().chain(of_outbox(&config.outbox)).chain(declared))
}

/// The limits of the state machine that no setting changes.
fn of_core(policy: &Policy) -> Vec<(String, String)> {
    let count = |name: &str, value: &dyn LimitValue| (format!("core.{name}"), value.as_text());
    let time = |name: &str, value: Duration| (format!("core.{name}"), value.as_text());
    vec![
        count("chunk-window", &policy.chunk_window),
        count("start-attempts", &policy.start_attempts),
        count("crash-limit", &policy.crash_limit),
        time("crash-window", policy.crash_window),
        time("restart-delay", policy.restart_delay),
        time("restart-delay-max", policy.restart_delay_max),
        time("retire-grace", policy.retire_grace),
        time("handshake-timeout", policy.handshake_timeout),
        time("ping-interval", policy.ping_interval),
        time("pong-timeout", policy.pong_timeout),
        time("probe-timeout", policy.probe_timeout),
        time("reap-timeout", policy.reap_timeout),
        time("exit-timeout", policy.exit_timeout),
        time("poll-grace", policy.poll_grace),
        time("undelivered-grace", policy.undelivered_grace),
    ]
}

/// The limits of the outbox that no setting changes.
fn of_outbox(limits: &OutboxLimits) -> Vec<(String, String)> {
    let OutboxLimits { max_bytes: _, max_posts, max_age, chunk_age } = limits;
    vec![
        ("outbox.max-posts".to_owned(), max_posts.as_text()),
        ("outbox.max-age".to_owned(), max_age.as_text()),
        ("outbox.chunk-age".to_owned(), chunk_age.as_text()),
    ]
}

/// `POLL_TIMEOUT` as `poll-timeout`.
fn dashed(constant: &str) -> String {
    constant.to_ascii_lowercase().replace('_', "-")
}
