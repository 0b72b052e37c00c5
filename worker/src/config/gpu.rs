//! Settings of measuring and probing the GPUs.

use std::time::Duration;

use runpod_worker_core::Policy;

use super::environment::Environment;
use super::parse;
use super::settings::{Settings, show_duration};
use crate::sensors::gpu::{GpuSettings, VisibleDevices};

/// Shortest interval: a driver needs some milliseconds for an answer.
const SHORTEST: Duration = Duration::from_millis(100);

/// Shortest interval of probes: a probe runs a kernel on the GPU.
const SHORTEST_PROBE: Duration = Duration::from_secs(1);

/// Flags of `run` about measuring and probing the GPUs.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "GPU")]
pub struct GpuArgs {
    /// How often the figures of the GPUs are read from the driver; 0s for never [env: RUNPOD_WORKER_GPU_INTERVAL] [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub gpu_interval: Option<String>,

    /// The memory floor of a GPU is its lowest memory use between jobs within this time; use a longer time for workers that
    /// are seldom idle
    /// [env: RUNPOD_WORKER_GPU_FLOOR_WINDOW] [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub gpu_floor_window: Option<String>,

    /// How often an idle GPU is probed; 0s for never [env: RUNPOD_WORKER_PROBE_INTERVAL] [default: 1m]
    #[arg(long, value_name = "TIME")]
    pub probe_interval: Option<String>,
}

/// Which GPUs are measured, how often, and how long their memory floor counts.
pub(super) fn gpus<E: Environment>(settings: &mut Settings<'_, E>, args: &GpuArgs) -> GpuSettings {
    let interval = settings.read(
        "gpu-interval",
        args.gpu_interval.as_deref(),
        &[],
        Duration::from_secs(5),
        interval,
        show_duration,
    );
    let floor_window = settings.read(
        "gpu-floor-window",
        args.gpu_floor_window.as_deref(),
        &[],
        Duration::from_secs(600),
        parse::timeout,
        show_duration,
    );
    // An empty list of CUDA devices is a list all the same.
    let visible = VisibleDevices {
        cuda: settings.env.raw("CUDA_VISIBLE_DEVICES"),
        nvidia: settings.env.get("NVIDIA_VISIBLE_DEVICES"),
    };
    GpuSettings { interval, floor_window, visible }
}

/// Adds the interval of GPU probes to the policy.
pub(super) fn probes<E: Environment>(settings: &mut Settings<'_, E>, args: &GpuArgs, policy: Policy) -> Policy {
    let probe_interval = settings.read(
        "probe-interval",
        args.probe_interval.as_deref(),
        &[],
        policy.probe_interval,
        |text| at_least(text, SHORTEST_PROBE),
        show_duration,
    );
    Policy { probe_interval, ..policy }
}

fn interval(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST)
}

/// Zero for never, or at least `shortest`.
fn at_least(text: &str, shortest: Duration) -> Result<Duration, String> {
    let interval = parse::duration(text)?;
    if interval.is_zero() || interval >= shortest {
        Ok(interval)
    } else {
        Err(format!("use 0s for never, or at least {}", show_duration(&shortest)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_interval_is_zero_or_long_enough() {
        assert_eq!((interval("0s"), interval("100ms")), (Ok(Duration::ZERO), Ok(SHORTEST)));
        assert!(interval("99ms").is_err() && interval("5").is_err());
    }

    #[test]
    fn an_empty_list_of_gpus_is_none_and_no_list_is_all() {
        let seen = |env: &BTreeMap<String, String>| gpus(&mut Settings::new(env), &GpuArgs::default()).visible;
        let empty = env(&[("CUDA_VISIBLE_DEVICES", ""), ("NVIDIA_VISIBLE_DEVICES", "all")]);
        assert_eq!(seen(&empty), VisibleDevices { cuda: Some(String::new()), nvidia: Some("all".to_owned()) });
        assert_eq!(seen(&env(&[])), VisibleDevices::default());
    }
}
