//! The limits that cannot be set, as `--check-config` lists them after the settings.

use runpod_handler_protocol::MAX_SLOTS;
use runpod_worker_core::Policy;

use crate::base::{FixedLimit, LimitValue};
use crate::config::{Config, Description};
use crate::outbox::OutboxLimits;
use crate::{alerts, app, base, direct, dispatcher, heartbeat, http, logs, outbox, process, queue, sensors, traces};

/// Every part that declares limits of its own.
const PARTS: [&[FixedLimit]; 13] = [
    app::LIMITS,
    dispatcher::LIMITS,
    queue::limits::LIMITS,
    heartbeat::limits::LIMITS,
    http::limits::LIMITS,
    direct::limits::LIMITS,
    outbox::limits::LIMITS,
    process::limits::LIMITS,
    logs::limits::LIMITS,
    traces::limits::LIMITS,
    alerts::LIMITS,
    sensors::limits::LIMITS,
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
    let limits: [(&str, &dyn LimitValue); 27] = [
        ("handshake-timeout", &policy.handshake_timeout),
        ("ping-interval", &policy.ping_interval),
        ("pong-timeout", &policy.pong_timeout),
        ("probe-timeout", &policy.probe_timeout),
        ("reap-timeout", &policy.reap_timeout),
        ("exit-timeout", &policy.exit_timeout),
        ("start-attempts", &policy.start_attempts),
        ("restart-delay", &policy.restart_delay),
        ("restart-delay-max", &policy.restart_delay_max),
        ("crash-limit", &policy.crash_limit),
        ("crash-window", &policy.crash_window),
        ("lost-run-limit", &policy.lost_run_limit),
        ("shutdown-notice", &policy.shutdown_notice),
        ("retire-grace", &policy.retire_grace),
        ("deadline-slack", &policy.deadline_slack),
        ("chunk-window", &policy.chunk_window),
        ("poll-jobs", &policy.poll_jobs),
        ("early-stop-limit", &policy.early_stop_limit),
        ("ended-jobs", &policy.ended_jobs),
        ("recent-results", &policy.recent_results),
        ("recent-bytes", &policy.recent_bytes),
        ("undelivered-grace", &policy.undelivered_grace),
        ("refresh-absence", &policy.refresh_absence),
        ("poll-grace", &policy.poll_grace),
        ("poll-abort-timeout", &policy.poll_abort_timeout),
        ("abort-flush-grace", &policy.abort_flush_grace),
        ("slots-per-process", &MAX_SLOTS),
    ];
    limits.into_iter().map(|(name, value)| (format!("core.{name}"), value.as_text())).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_limits_are_shown_with_part_name_and_value() {
        let args = crate::config::RunArgs { handler: vec!["/bin/sh".into()], ..Default::default() };
        let config = Config::load(&args, &std::collections::BTreeMap::new()).unwrap();
        let text = fixed_limits(&config).to_string();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
            line.unwrap_or_else(|| panic!("{name} is missing in:\n{text}")).split_once(" = ").unwrap().1.to_owned()
        };
        assert_eq!(value("core.crash-limit"), "5 (fixed)");
        assert_eq!(value("outbox.max-age"), "1day (fixed)");
        assert_eq!(value("queue.post-timeout"), "15s (fixed)");
        assert_eq!(value("heartbeat.max-missed-beats"), "30 (fixed)");
    }

    /// Every duration is in a `limits!` block, but for the ranges of settings and the limits of single commands.
    #[test]
    fn no_duration_is_declared_where_check_config_does_not_show_it() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![source.clone()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if name.starts_with("config/") || name.starts_with("commands/") || name.contains("tests") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let is_duration = |line: &&str| line.contains("const ") && line.contains(": Duration =");
                let loose = text.lines().filter(|line| !line.starts_with(' ')).filter(is_duration);
                found.extend(loose.map(|line| format!("{name}: {line}")));
            }
        }
        assert!(found.is_empty(), "declare these with `limits!`:\n{}", found.join("\n"));
    }
}
