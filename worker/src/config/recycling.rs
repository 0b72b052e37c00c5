//! When handler processes are replaced, and what follows when a job asks for a fresh worker.

use std::time::Duration;

use runpod_worker_core::{OnRefresh, Policy, RecycleLimits};

use super::environment::Environment;
use super::parse;
use super::settings::{Settings, show_duration};

/// Flags of `run` about the replacement of handler processes.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Handler process")]
pub struct RecycleArgs {
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

    /// What follows when a job asks for a fresh worker: exit, restart-handler, or auto. With auto the worker exits when
    /// RUNPOD_ENDPOINT_ID is set, because another worker is started then [env: RUNPOD_WORKER_ON_REFRESH] [default: auto]
    #[arg(long, value_name = "WHAT")]
    pub on_refresh: Option<String>,
}

/// Adds the settings of recycling to the policy.
pub(super) fn recycling<E: Environment>(settings: &mut Settings<'_, E>, args: &RecycleArgs, policy: Policy) -> Policy {
    let recycle = RecycleLimits {
        max_jobs: settings.optional("max-jobs", args.max_jobs.as_deref(), |text| parse::number(text, &(1..=u64::MAX))),
        max_rss: settings.optional("max-rss", args.max_rss.as_deref(), parse::size),
        max_vram: settings.optional("max-vram", args.max_vram.as_deref(), parse::size),
        max_age: optional_duration(settings, "max-age", args.max_age.as_deref()),
    };
    let refresh_worker =
        settings.read("refresh-worker", args.refresh_worker.as_deref(), &[], false, parse::boolean, bool::to_string);
    let on_refresh = on_refresh(settings, args);
    Policy { recycle, refresh_worker, on_refresh, ..policy }
}

fn on_refresh<E: Environment>(settings: &mut Settings<'_, E>, args: &RecycleArgs) -> OnRefresh {
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
