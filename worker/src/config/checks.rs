//! Settings of the fitness checks. Most come from variables of RunPod's SDK.

use std::path::PathBuf;
use std::time::Duration;

use runpod_handler_protocol::CheckOrder;
use runpod_worker_core::Policy;

use super::environment::Environment;
use super::parse;
use super::settings::Settings;
use crate::checks::CheckConfig;

/// Flags of `run` about fitness checks.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Fitness checks")]
pub struct CheckArgs {
    /// Device memory that must be free before the model is loaded, such as 20GiB [env: RUNPOD_WORKER_MIN_GPU_MEMORY]
    /// [default: none]
    #[arg(long, value_name = "SIZE")]
    pub min_gpu_memory: Option<String>,

    /// Check at start that this address accepts connections. Without it no outside address is contacted
    /// [env: RUNPOD_WORKER_CHECK_NETWORK] [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    pub check_network: Option<String>,
}

/// Adds the checks of the handler process to the policy.
pub(super) fn handler_checks<E: Environment>(
    settings: &mut Settings<'_, E>,
    args: &CheckArgs,
    policy: Policy,
) -> Policy {
    let order = order(settings, args, &policy);
    // `worker_checks` reads it too, and shows it.
    let checks = (!is_true(settings.env.get(SKIP_ALL))).then_some(order);
    Policy { checks, ..policy }
}

/// Reads the checks that the worker makes itself.
pub(super) fn worker_checks<E: Environment>(settings: &mut Settings<'_, E>, args: &CheckArgs) -> CheckConfig {
    let [all, system] = [SKIP_ALL, SKIP_SYSTEM].map(|variable| skip(settings, variable).then_some(variable));
    CheckConfig {
        skipped_by: all.or(system),
        min_memory: gibibytes(platform(settings, "RUNPOD_MIN_MEMORY_GB", 4.0, |text| parse::decimal(text, 0.0, 1e6))),
        min_disk_percent: platform(settings, "RUNPOD_MIN_DISK_PERCENT", 10.0, |text| parse::decimal(text, 0.0, 100.0)),
        folders: vec![PathBuf::from("/")],
        network: settings.optional("check-network", args.check_network.as_deref(), parse::host_and_port),
        network_timeout: seconds(platform(settings, "RUNPOD_NETWORK_CHECK_TIMEOUT", 5.0, positive)),
    }
}

const SKIP_ALL: &str = "RUNPOD_SKIP_FITNESS_CHECKS";
const SKIP_SYSTEM: &str = "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS";
const SKIP_GPU: &str = "RUNPOD_SKIP_GPU_CHECK";

/// The checks of the handler process, with RunPod's variables and defaults.
fn order<E: Environment>(settings: &mut Settings<'_, E>, args: &CheckArgs, policy: &Policy) -> CheckOrder {
    let min_gpu_memory = settings.optional("min-gpu-memory", args.min_gpu_memory.as_deref(), parse::size);
    let millis = |value: f64| (value * 1000.0) as u64;
    // A start without progress ends after this time, so a check that takes longer cannot report anything.
    let stall = policy.load_stall_timeout.as_secs_f64();
    CheckOrder {
        worker_id: policy.worker_id.clone(),
        slots: policy.slots,
        device: policy.device.clone(),
        // `worker_checks` reads it too, and shows it.
        system: !is_true(settings.env.get(SKIP_SYSTEM)),
        gpu_memory: !skip(settings, SKIP_GPU),
        min_cuda: cuda_version(settings),
        min_gpu_memory: min_gpu_memory.unwrap_or_default(),
        benchmark_limit_ms: millis(platform(settings, "RUNPOD_GPU_BENCHMARK_TIMEOUT", f64::min(2.0, stall), positive)),
        gpu_limit_ms: millis(platform(settings, "RUNPOD_GPU_TEST_TIMEOUT", f64::min(30.0, stall), positive)),
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

/// As version 2.0 of RunPod's SDK: these words in any case, and nothing else. Version 1 knows only the first.
fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| ["true", "1", "yes", "on"].iter().any(|word| value.trim().eq_ignore_ascii_case(word)))
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
