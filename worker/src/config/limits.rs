//! Limits of the core that no flag changes. `--check-config` shows them beside the settings.

use std::time::Duration;

use super::environment::Environment;
use super::settings::{Settings, show_duration};
use runpod_worker_core::Policy;

/// Adds the limits to the description.
pub(super) fn show<E: Environment>(settings: &mut Settings<'_, E>, policy: &Policy) {
    let times: [(&str, Duration); 16] = [
        ("handshake-timeout", policy.handshake_timeout),
        ("ping-interval", policy.ping_interval),
        ("pong-timeout", policy.pong_timeout),
        ("probe-timeout", policy.probe_timeout),
        ("reap-timeout", policy.reap_timeout),
        ("exit-timeout", policy.exit_timeout),
        ("restart-delay", policy.restart_delay),
        ("restart-delay-max", policy.restart_delay_max),
        ("crash-window", policy.crash_window),
        ("retire-grace", policy.retire_grace),
        ("deadline-slack", policy.deadline_slack),
        ("undelivered-grace", policy.undelivered_grace),
        ("refresh-absence", policy.refresh_absence),
        ("poll-grace", policy.poll_grace),
        ("poll-abort-timeout", policy.poll_abort_timeout),
        ("abort-flush-grace", policy.abort_flush_grace),
    ];
    for (name, time) in times {
        settings.show(name, &show_duration(&time), "fixed");
    }
    let numbers = [
        ("crash-limit", policy.crash_limit.to_string()),
        ("start-attempts", policy.start_attempts.to_string()),
        ("lost-start-limit", policy.lost_start_limit.to_string()),
        ("chunk-window", policy.chunk_window.to_string()),
        ("early-stop-limit", policy.early_stop_limit.to_string()),
        ("recent-results", policy.recent_results.to_string()),
        ("recent-bytes", policy.recent_bytes.to_string()),
    ];
    for (name, number) in numbers {
        settings.show(name, &number, "fixed");
    }
}
