//! Settings of metrics and cost.

use super::environment::Environment;
use super::parse;
use super::settings::Settings;
use crate::metrics::TENANT_LIMIT;
use crate::queue::TenantField;
use runpod_worker_core::Policy;

/// Most tenants with series of their own; each has about 20.
const MAX_TENANTS: usize = 1000;

/// Highest price, in dollars an hour.
const MAX_PRICE: f64 = 1e6;

/// Flags of `run` about metrics and cost.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Metrics and cost")]
pub struct MetricsArgs {
    /// Field of a job that names its tenant, or a path such as input.tenant: the label `tenant` in /metrics. The worker reads no
    /// other part of a job [env: RUNPOD_WORKER_TENANT_FIELD] [default: none]
    #[arg(long, value_name = "FIELD")]
    pub tenant_field: Option<String>,

    /// Tenants with series of their own in /metrics; later ones are counted as `other`
    /// [env: RUNPOD_WORKER_TENANT_LIMIT] [default: 32]
    #[arg(long, value_name = "N")]
    pub tenant_limit: Option<String>,

    /// Price of the worker with all its GPUs in dollars an hour: adds the cost to /metrics and /health
    /// [env: RUNPOD_WORKER_PRICE_PER_HOUR] [default: none]
    #[arg(long, value_name = "DOLLARS")]
    pub price_per_hour: Option<String>,

    /// Add `cost`, the GPU time and price of the job, to each result that is posted
    /// [env: RUNPOD_WORKER_COST_IN_RESULT] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub cost_in_result: Option<String>,
}

pub(super) fn tenant_field<E: Environment>(settings: &mut Settings<'_, E>, args: &MetricsArgs) -> Option<TenantField> {
    settings.optional("tenant-field", args.tenant_field.as_deref(), str::parse)
}

pub(super) fn tenant_limit<E: Environment>(settings: &mut Settings<'_, E>, args: &MetricsArgs) -> usize {
    settings.number("tenant-limit", args.tenant_limit.as_deref(), TENANT_LIMIT, 1..=MAX_TENANTS)
}

/// Reads what belongs to the policy.
pub(super) fn cost<E: Environment>(settings: &mut Settings<'_, E>, args: &MetricsArgs, policy: Policy) -> Policy {
    let price_per_hour = settings
        .optional("price-per-hour", args.price_per_hour.as_deref(), |text| parse::decimal(text, 0.0, MAX_PRICE));
    let cost_in_result =
        settings.read("cost-in-result", args.cost_in_result.as_deref(), &[], false, parse::boolean, bool::to_string);
    Policy { price_per_hour, cost_in_result, ..policy }
}
