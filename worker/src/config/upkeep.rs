//! Settings that keep a worker in shape: fitness checks, recycling, refreshing, probes.

use std::path::PathBuf;
use std::time::Duration;

use runpod_handler_protocol::CheckOrder;

use super::environment::Environment;
use super::parse;
use super::settings::{Settings, show_duration};
use crate::checks::CheckConfig;
use runpod_worker_core::{OnRefresh, Policy, RecycleLimits};

/// Flags of `run` about checks, recycling, refreshing and probes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct UpkeepArgs {
    /// Replace a handler process after this many jobs [env: RUNPOD_WORKER_MAX_JOBS] [default: none]
    #[arg(long, value_name = "N")]
    pub max_jobs: Option<String>,

    /// Replace a handler process, between jobs, that holds more host memory than this, such as 12GiB. Mapped weights count
    /// [env: RUNPOD_WORKER_MAX_RSS] [default: none]
    #[arg(long, value_name = "SIZE")]
    pub max_rss: Option<String>,

    /// Replace a handler process whose tensors hold more device memory than this when a job is over, such as 20GiB
    /// [env: RUNPOD_WORKER_MAX_VRAM] [default: none]
    #[arg(long, value_name = "SIZE")]
    pub max_vram: Option<String>,

    /// Replace a handler process, between jobs, that has served this long, such as 12h [env: RUNPOD_WORKER_MAX_AGE]
    /// [default: none]
    #[arg(long, value_name = "TIME")]
    pub max_age: Option<String>,

    /// As `refresh_worker` in RunPod's start configuration: every result asks for a fresh worker, and this one exits after its
    /// first job [env: RUNPOD_WORKER_REFRESH_WORKER] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub refresh_worker: Option<String>,

    /// What follows when a job asks for a fresh worker: exit, restart-handler, or auto: exit when RUNPOD_ENDPOINT_ID is set,
    /// because somebody starts another worker then [env: RUNPOD_WORKER_ON_REFRESH] [default: auto]
    #[arg(long, value_name = "WHAT")]
    pub on_refresh: Option<String>,

    /// How often an idle GPU is asked for a sign of life; 0s for never [env: RUNPOD_WORKER_PROBE_INTERVAL] [default: 1m]
    #[arg(long, value_name = "TIME")]
    pub probe_interval: Option<String>,

    /// Device memory that must be free before the model is loaded, such as 20GiB [env: RUNPOD_WORKER_MIN_GPU_MEMORY]
    /// [default: none]
    #[arg(long, value_name = "SIZE")]
    pub min_gpu_memory: Option<String>,

    /// Check at start that this address accepts connections. Without it no outside address is contacted
    /// [env: RUNPOD_WORKER_CHECK_NETWORK] [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    pub check_network: Option<String>,
}

/// Reads what belongs to the policy.
pub(super) fn policy<E: Environment>(settings: &mut Settings<'_, E>, args: &UpkeepArgs, policy: Policy) -> Policy {
    let recycle = RecycleLimits {
        max_jobs: settings.optional("max-jobs", args.max_jobs.as_deref(), |text| parse::number(text, &(1..=u64::MAX))),
        max_rss: settings.optional("max-rss", args.max_rss.as_deref(), parse::size),
        max_vram: settings.optional("max-vram", args.max_vram.as_deref(), parse::size),
        max_age: optional_duration(settings, "max-age", args.max_age.as_deref()),
    };
    let refresh_worker =
        settings.read("refresh-worker", args.refresh_worker.as_deref(), &[], false, parse::boolean, bool::to_string);
    let on_refresh = on_refresh(settings, args);
    let probe_interval = settings.duration("probe-interval", args.probe_interval.as_deref(), policy.probe_interval);
    let checks = Some(order(settings, args, &policy));
    Policy { recycle, refresh_worker, on_refresh, probe_interval, checks, ..policy }
}

/// Reads what the worker checks itself.
pub(super) fn checks<E: Environment>(settings: &mut Settings<'_, E>, args: &UpkeepArgs) -> CheckConfig {
    CheckConfig {
        system: !skip(settings, SKIP_SYSTEM),
        min_memory: gibibytes(platform(settings, "RUNPOD_MIN_MEMORY_GB", 4.0, |text| parse::decimal(text, 0.0, 1e6))),
        min_disk_percent: platform(settings, "RUNPOD_MIN_DISK_PERCENT", 10.0, |text| parse::decimal(text, 0.0, 100.0)),
        folders: vec![PathBuf::from("/")],
        network: settings.optional("check-network", args.check_network.as_deref(), parse::host_and_port),
        network_timeout: seconds(platform(settings, "RUNPOD_NETWORK_CHECK_TIMEOUT", 5.0, positive)),
    }
}

const SKIP_SYSTEM: &str = "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS";
const SKIP_GPU: &str = "RUNPOD_SKIP_GPU_CHECK";

/// What the handler process checks, with RunPod's variables and defaults.
fn order<E: Environment>(settings: &mut Settings<'_, E>, args: &UpkeepArgs, policy: &Policy) -> CheckOrder {
    let min_gpu_memory = settings.optional("min-gpu-memory", args.min_gpu_memory.as_deref(), parse::size);
    let millis = |value: f64| (value * 1000.0) as u64;
    CheckOrder {
        worker_id: policy.worker_id.clone(),
        slots: policy.slots,
        device: policy.device.clone(),
        // Shown by `checks`, which reads it too.
        system: !is_true(settings.env.get(SKIP_SYSTEM)),
        gpu_memory: !skip(settings, SKIP_GPU),
        min_cuda: cuda_version(settings),
        min_gpu_memory: min_gpu_memory.unwrap_or_default(),
        benchmark_limit_ms: millis(platform(settings, "RUNPOD_GPU_BENCHMARK_TIMEOUT", 2.0, positive)),
        gpu_limit_ms: millis(platform(settings, "RUNPOD_GPU_TEST_TIMEOUT", 30.0, positive)),
    }
}

fn cuda_version<E: Environment>(settings: &mut Settings<'_, E>) -> (u32, u32) {
    const VARIABLE: &str = "RUNPOD_MIN_CUDA_VERSION";
    const DEFAULT: (u32, u32) = (11, 8);
    let Some(text) = settings.variable(VARIABLE) else { return DEFAULT };
    parse::version(&text).unwrap_or_else(|fix| {
        settings.problems.push(format!("{VARIABLE}: `{text}` cannot be used: {fix}"));
        DEFAULT
    })
}

fn on_refresh<E: Environment>(settings: &mut Settings<'_, E>, args: &UpkeepArgs) -> OnRefresh {
    let on_platform = settings.env.get("RUNPOD_ENDPOINT_ID").is_some();
    let auto = if on_platform { OnRefresh::Exit } else { OnRefresh::RestartHandler };
    settings.read(
        "on-refresh",
        args.on_refresh.as_deref(),
        &[],
        auto,
        |text| {
            Ok(match parse::word(text, &["auto", "exit", "restart-handler"])?.as_str() {
                "exit" => OnRefresh::Exit,
                "restart-handler" => OnRefresh::RestartHandler,
                _ => auto,
            })
        },
        |what| what.as_str().to_owned(),
    )
}

fn optional_duration<E: Environment>(
    settings: &mut Settings<'_, E>,
    name: &str,
    flag: Option<&str>,
) -> Option<Duration> {
    let parse = |text: &str| if text.eq_ignore_ascii_case("none") { Ok(None) } else { parse::timeout(text).map(Some) };
    settings.read(name, flag, &[], None, parse, |value| value.as_ref().map_or_else(|| "none".to_owned(), show_duration))
}

/// A number in one of RunPod's own variables.
fn platform<E: Environment>(
    settings: &mut Settings<'_, E>,
    variable: &str,
    default: f64,
    parse: impl Fn(&str) -> Result<f64, String>,
) -> f64 {
    let Some(text) = settings.variable(variable) else { return default };
    parse(&text).unwrap_or_else(|fix| {
        settings.problems.push(format!("{variable}: `{text}` cannot be used: {fix}"));
        default
    })
}

/// As RunPod's SDK: `true` in any case, and nothing else.
fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn skip<E: Environment>(settings: &mut Settings<'_, E>, variable: &str) -> bool {
    is_true(settings.variable(variable))
}

fn positive(text: &str) -> Result<f64, String> {
    parse::decimal(text, 0.001, 3600.0)
}

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

fn gibibytes(value: f64) -> u64 {
    (value * f64::from(1 << 30)) as u64
}
