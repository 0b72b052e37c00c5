//! Settings of traces.

use super::environment::Environment;
use super::receiver::receiver;
use super::settings::Settings;
use crate::base::Identity;
use crate::traces::TraceConfig;

/// Flags of `run` about traces.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceArgs {
    /// Export traces to this OTLP receiver over HTTP; `/v1/traces` is appended [env: RUNPOD_WORKER_OTLP_ENDPOINT or
    /// OTEL_EXPORTER_OTLP_ENDPOINT] [default: none]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

pub(super) fn traces<E: Environment>(
    settings: &mut Settings<'_, E>,
    args: &TraceArgs,
    identity: &Identity,
) -> Option<TraceConfig> {
    let platform = ["OTEL_EXPORTER_OTLP_ENDPOINT"];
    let endpoint = receiver(settings, "otlp-endpoint", args.otlp_endpoint.as_deref(), &platform, identity)?;
    Some(TraceConfig { endpoint })
}
