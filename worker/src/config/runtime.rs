//! What is measured, and what the platform says about the container.

use std::net::IpAddr;
use std::time::Duration;

use super::environment::Environment;
use super::parse;
use super::settings::{Settings, show_duration};
use crate::sensors::Port;
use crate::sensors::gpu::{GpuSettings, VisibleDevices};

/// A driver needs some milliseconds for an answer.
const SHORTEST: Duration = Duration::from_millis(100);

/// Flags of `run` about measuring.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RuntimeArgs {
    /// How often the driver is asked what the GPUs are doing; 0s for never [env: RUNPOD_WORKER_GPU_INTERVAL] [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub gpu_interval: Option<String>,
    /// How far back the memory floor of a GPU looks for a moment between jobs; longer for workers that seldom have one
    /// [env: RUNPOD_WORKER_GPU_FLOOR_WINDOW] [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub gpu_floor_window: Option<String>,
}

/// Which GPUs are looked at, how often, and for how long their memory floor is remembered.
pub(super) fn gpus<E: Environment>(settings: &mut Settings<'_, E>, args: &RuntimeArgs) -> GpuSettings {
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

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse::duration(text)?;
    if interval.is_zero() || interval >= SHORTEST {
        Ok(interval)
    } else {
        Err("use 0s for never, or at least 100ms".to_owned())
    }
}

/// The ports that RunPod has mapped: `RUNPOD_TCP_PORT_<number inside>` holds the number outside. Numbers above 65535 ask for
/// a port that has the same number on both sides.
pub(super) fn ports<E: Environment>(settings: &mut Settings<'_, E>) -> Vec<Port> {
    const PREFIX: &str = "RUNPOD_TCP_PORT_";
    const ADDRESS: &str = "RUNPOD_PUBLIC_IP";
    let given = settings.env.get(ADDRESS);
    let ip: Option<IpAddr> = given.as_deref().and_then(|ip| ip.parse().ok());
    if given.is_some() && ip.is_none() {
        settings.warnings.push(format!("{ADDRESS} is no IP address and is not shown in /health"));
    }
    let mut ports = Vec::new();
    for name in settings.env.names() {
        let Some(inside) = name.strip_prefix(PREFIX) else { continue };
        let outside = settings.env.get(&name).and_then(|port| port.parse::<u16>().ok());
        match (inside.parse::<u32>(), outside) {
            (Ok(inside), Some(public)) => {
                ports.push(Port { ip, private: u16::try_from(inside).unwrap_or(public), public, kind: "tcp" });
            }
            _ => settings.warnings.push(format!("{name} names no port and is not shown in /health")),
        }
    }
    ports.sort_by_key(|port| port.private);
    ports
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
        let seen = |env: &BTreeMap<String, String>| gpus(&mut Settings::new(env), &RuntimeArgs::default()).visible;
        let empty = env(&[("CUDA_VISIBLE_DEVICES", ""), ("NVIDIA_VISIBLE_DEVICES", "all")]);
        assert_eq!(seen(&empty), VisibleDevices { cuda: Some(String::new()), nvidia: Some("all".to_owned()) });
        assert_eq!(seen(&env(&[])), VisibleDevices::default());
    }

    #[test]
    fn the_platforms_ports_are_read_and_what_is_none_is_named() {
        let good = env(&[
            ("RUNPOD_TCP_PORT_22", "10341"),
            ("RUNPOD_TCP_PORT_70000", "18541"),
            ("RUNPOD_TCP_PORT_x", "1"),
            ("RUNPOD_TCP_PORT_80", "http"),
            ("RUNPOD_PUBLIC_IP", "203.0.113.7"),
        ]);
        let mut settings = Settings::new(&good);
        let found: Vec<(u16, u16)> = ports(&mut settings).iter().map(|port| (port.private, port.public)).collect();
        assert_eq!(found, [(22, 10341), (18541, 18541)]);
        assert_eq!(settings.warnings.len(), 2);

        let bad = env(&[("RUNPOD_TCP_PORT_22", "10341"), ("RUNPOD_PUBLIC_IP", "somewhere")]);
        let mut settings = Settings::new(&bad);
        assert_eq!(ports(&mut settings)[0].ip, None);
        assert_eq!(settings.warnings.len(), 1);
    }
}
