//! Label values and how metrics enter the registry. Label values come from closed sets, from the handler's manifest or from
//! a bounded table.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use runpod_handler_protocol::{ErrorKind, Manifest};

/// Longest label value in characters. Names in the manifest can have any length, so longer ones are cut.
const MAX_LABEL_LEN: usize = 64;

/// Seconds; jobs, queues and model loads take from milliseconds to a day. No job lives for more than a week.
pub(super) const LONG_BUCKETS: [f64; 22] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0,
    7200.0, 14_400.0, 86_400.0, 604_800.0,
];

/// A gauge that is not a whole number.
pub(super) type Measure = Gauge<f64, AtomicU64>;
/// A counter that is not a whole number.
pub(super) type Sum = Counter<f64, AtomicU64>;
/// No label: a family of one series that is absent until it has a value.
pub(super) type Bare = [(&'static str, &'static str); 0];
/// Histograms by label.
pub(super) type Histograms<S> = Family<S, Histogram, fn() -> Histogram>;

/// Declares label sets of one name, whose values come from closed sets.
macro_rules! closed_label {
    ($($set:ident { $name:ident })*) => {$(
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $set {
            pub(super) $name: &'static str,
        }
    )*};
}

closed_label! {
    Status { status }
    Category { category }
    Kind { kind }
    State { state }
    Outcome { outcome }
    Cause { cause }
    Reason { reason }
    Phase { phase }
    ItemUnit { unit }
    UseOf { r#use }
}

/// A device that jobs run on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Device {
    pub(super) device: Cow<'static, str>,
}

impl Device {
    /// Handlers name their device freely; only the usual names become labels.
    pub(super) fn new(name: &str) -> Self {
        const USUAL: [&str; 3] = ["cpu", "cuda", "mps"];
        let device = match USUAL.into_iter().find(|usual| *usual == name) {
            Some(usual) => Cow::Borrowed(usual),
            None if is_numbered_gpu(name) => Cow::Owned(name.to_owned()),
            None => Cow::Borrowed("other"),
        };
        Self { device }
    }
}

fn is_numbered_gpu(name: &str) -> bool {
    name.strip_prefix("cuda:").is_some_and(|index| index.parse::<u8>().is_ok())
}

/// What runs the jobs, from the handler's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Model {
    pub(super) model: Cow<'static, str>,
    pub(super) version: Cow<'static, str>,
}

impl Model {
    /// Before the handler has introduced itself.
    pub(super) const UNKNOWN: Self = Self { model: Cow::Borrowed("unknown"), version: Cow::Borrowed("unknown") };

    pub(super) fn new(manifest: &Manifest) -> Self {
        let cut = |text: &str| text.chars().take(MAX_LABEL_LEN).collect();
        Self { model: Cow::Owned(cut(&manifest.name)), version: Cow::Owned(cut(&manifest.version)) }
    }
}

/// The coarse classes of `runpod_job_errors_total`.
pub(super) const CATEGORIES: [&str; 4] = ["validation", "timeout", "oom", "unknown"];

/// The coarse class of an error.
pub(super) fn category(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Validation | ErrorKind::ModelNotFound => "validation",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Oom => "oom",
        _ => "unknown",
    }
}

/// The values of `error_type` in the inference family.
pub(super) const ERROR_TYPES: [&str; 4] = ["validation", "model_not_found", "timeout", "inference_error"];

/// The `error_type` of the inference family. An input that is not valid is no error of inference, so it has a type of its own.
pub(super) fn error_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Validation => "validation",
        ErrorKind::ModelNotFound => "model_not_found",
        ErrorKind::Timeout => "timeout",
        _ => "inference_error",
    }
}

/// Adds a metric. `name` is the one that is exposed, without the `_total` of counters; its unit is at its end.
pub(super) fn register<M>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M
where
    M: Clone + EncodeMetric + fmt::Debug + Send + Sync + 'static,
{
    for unit in [Unit::Seconds, Unit::Bytes, Unit::Other("dollars".to_owned())] {
        let stem = name.strip_suffix(unit.as_str()).and_then(|stem| stem.strip_suffix('_'));
        if let Some(stem) = stem {
            registry.register_with_unit(stem, help, unit, metric.clone());
            return metric;
        }
    }
    registry.register(name, help, metric.clone());
    metric
}

/// A histogram of seconds.
pub(super) fn long_histogram() -> Histogram {
    Histogram::new(LONG_BUCKETS)
}

/// A count as a gauge holds it.
pub(super) fn count(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// Sets a counter to a count that is kept elsewhere.
pub(super) fn set_total(counter: &Counter, total: u64) {
    counter.inner().store(total, Ordering::Relaxed);
}

/// Sets a counter to a sum that is kept elsewhere.
pub(super) fn set_sum(sum: &Sum, total: f64) {
    sum.inner().store(total.to_bits(), Ordering::Relaxed);
}
