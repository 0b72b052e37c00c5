//! Values that are right alone and cannot work together. Each pair is refused with the reason, or warned about when one of the
//! two has no effect.

use std::net::SocketAddr;
use std::time::Duration;

use runpod_worker_core::{OnRefresh, Policy};

use super::environment::Environment;
use super::settings::{Settings, show_duration};
use crate::heartbeat::HeartbeatConfig;
use crate::outbox::SpoolConfig;
use crate::sensors::gpu::GpuSettings;

/// Jobs are given to other workers some time after the last heartbeat: after 40 s by `runpod-endpoint`, and after a time that
/// RunPod does not publish. With a longer interval one lost ping is enough.
const LONG_PING_INTERVAL: Duration = Duration::from_secs(20);

/// Everything that conflicts may be about.
pub(super) struct Values<'a> {
    pub(super) policy: &'a Policy,
    pub(super) spool: &'a SpoolConfig,
    pub(super) gpus: &'a GpuSettings,
    pub(super) heartbeat: Option<&'a HeartbeatConfig>,
}

/// Adds a problem for each pair that cannot work together, and a warning for each setting without effect.
pub(super) fn check<E: Environment>(settings: &mut Settings<'_, E>, values: &Values<'_>) {
    let Values { policy, spool, gpus, heartbeat } = *values;
    if spool.always && spool.folder.is_none() {
        settings.problems.push(
            "--spool=always needs a folder, and --spool-dir is none: name a folder, or use --spool=overdue".to_owned(),
        );
    }
    if !gpus.interval.is_zero() && gpus.floor_window < gpus.interval {
        settings.problems.push(format!(
            "--gpu-floor-window is {}, but GPUs are measured only every {}: use a longer window or a shorter --gpu-interval",
            show_duration(&gpus.floor_window),
            show_duration(&gpus.interval)
        ));
    }
    if policy.refresh_worker && settings.is_given("on-refresh") && policy.on_refresh == OnRefresh::RestartHandler {
        settings.problems.push(
            "--refresh-worker ends the worker after its first job, and --on-refresh=restart-handler keeps it: use one of them"
                .to_owned(),
        );
    }
    if policy.refresh_worker && policy.prefetch > 0 {
        settings.problems.push(
            "--refresh-worker ends the worker after its first job, so jobs taken by --prefetch would be handed back: use \
             --prefetch=0"
                .to_owned(),
        );
    }
    check_device(settings, policy);
    if let Some(heartbeat) = heartbeat
        && heartbeat.interval > LONG_PING_INTERVAL
    {
        settings.warnings.push(format!(
            "RUNPOD_PING_INTERVAL is {}: a queue that hears nothing for so long may give the jobs to another worker; use 10000 \
             (milliseconds)",
            show_duration(&heartbeat.interval)
        ));
    }
    if policy.flush_grace.is_zero() && spool.folder.is_none() {
        settings.warnings.push(
            "--flush-grace is 0s and there is no spool: results that are not accepted at once are lost on shutdown"
                .to_owned(),
        );
    }
    for (setting, needed) in [
        ("log-sink-token", "log-sink"),
        ("log-sink-buffer", "log-sink"),
        ("tenant-limit", "tenant-field"),
        ("alert-format", "alert-webhook"),
    ] {
        if settings.is_given(setting) && !settings.is_given(needed) {
            settings.warnings.push(format!("--{setting} has no effect without --{needed}"));
        }
    }
}

/// Settings of a GPU for a worker without one, and checks that take longer than the start may.
fn check_device<E: Environment>(settings: &mut Settings<'_, E>, policy: &Policy) {
    let Some(checks) = &policy.checks else { return };
    if policy.device == "cpu" && checks.min_gpu_memory > 0 {
        settings.problems.push(
            "--min-gpu-memory needs a GPU, and --device is cpu: use --device=cuda, or leave out --min-gpu-memory"
                .to_owned(),
        );
    }
    let stall = policy.load_stall_timeout;
    for (variable, millis) in
        [("RUNPOD_GPU_TEST_TIMEOUT", checks.gpu_limit_ms), ("RUNPOD_GPU_BENCHMARK_TIMEOUT", checks.benchmark_limit_ms)]
    {
        let limit = Duration::from_millis(millis);
        if settings.env.get(variable).is_some() && limit >= stall {
            settings.problems.push(format!(
                "{variable} is {}, but a start without progress ends after {} (--load-stall-timeout): use a longer \
                 --load-stall-timeout",
                show_duration(&limit),
                show_duration(&stall)
            ));
        }
    }
}

/// Why two servers of the worker cannot have these addresses; `None` when they can.
pub(super) fn same_port(first: (&str, SocketAddr), second: (&str, SocketAddr)) -> Option<String> {
    let ((first_name, first), (second_name, second)) = (first, second);
    // Port 0 is another port each time.
    let same = first.port() == second.port() && first.port() != 0;
    let overlap = first.ip() == second.ip() || first.ip().is_unspecified() || second.ip().is_unspecified();
    (same && overlap).then(|| {
        format!("{first_name} ({first}) and {second_name} ({second}) are the same port: choose another for one of them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_cannot_share_a_port() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (first, second, same) in [
            ("127.0.0.1:8001", "127.0.0.1:8001", true),
            ("0.0.0.0:8001", "127.0.0.1:8001", true),
            ("[::]:8001", "127.0.0.1:8001", true),
            ("127.0.0.1:8001", "127.0.0.1:8000", false),
            ("127.0.0.1:8001", "127.0.0.2:8001", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let found = same_port(("--bind", address(first)), ("--http-bind", address(second)));
            assert_eq!(found.is_some(), same, "{first} {second}");
        }
    }
}
