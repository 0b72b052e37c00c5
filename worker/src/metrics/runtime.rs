//! GPUs and the container, looked up when somebody asks. What is not known has no series, rather than one that says zero.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::sync::watch;

use crate::sensors::gpu::Gpu;
use crate::sensors::host::HostUsage;
use crate::sensors::{Sensors, handler_memory};
use runpod_worker_core::{DeviceMemory, SlowdownReason, Snapshot};

type Labels = Vec<(&'static str, String)>;
type Series = Vec<(Labels, f64)>;

/// What is looked at.
#[derive(Debug)]
pub struct RuntimeMetrics {
    sensors: Sensors,
    snapshots: watch::Receiver<Snapshot>,
}

impl RuntimeMetrics {
    /// Metrics of these sensors and of the allocators in these snapshots.
    pub fn new(sensors: Sensors, snapshots: watch::Receiver<Snapshot>) -> Self {
        Self { sensors, snapshots }
    }
}

impl Collector for RuntimeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let out = &mut encoder;
        encode_gpus(out, self.sensors.gpus.latest().as_deref().unwrap_or_default())?;
        let held = handler_memory(&self.snapshots.borrow());
        let devices = |figure: fn(&DeviceMemory) -> Option<u64>| -> Series {
            let known = held.iter().filter_map(|(gpu, memory)| Some((gpu, figure(memory)?)));
            known.map(|(gpu, bytes)| (vec![("device", format!("cuda:{gpu}"))], bytes as f64)).collect()
        };
        let help = "Device memory in tensors when the last job was over, from the handler's allocator";
        gauge(out, "runpod_gpu_allocated_bytes", help, devices(|memory| Some(memory.allocated)))?;
        let help = "Device memory taken by the handler's allocator when the last job was over: tensors and its cache";
        gauge(out, "runpod_gpu_reserved_bytes", help, devices(|memory| memory.reserved))?;
        encode_container(out, self.sensors.host.latest())
    }
}

fn encode_gpus(out: &mut DescriptorEncoder<'_>, gpus: &[Gpu]) -> Result<(), Error> {
    let each = |figure: fn(&Gpu) -> Option<f64>| -> Series {
        let known = gpus.iter().enumerate().filter_map(|(index, gpu)| Some((index, figure(gpu)?)));
        known.map(|(index, value)| (vec![label(index)], value)).collect()
    };
    let help = "Share of the last moments in which a GPU computed";
    gauge(out, "runpod_gpu_utilization_ratio", help, each(|gpu| gpu.figures.utilization))?;
    let help = "GPU memory in use by all processes";
    gauge(out, "runpod_gpu_memory_used_bytes", help, each(|gpu| float(gpu.figures.memory_used)))?;
    let help = "Total GPU memory";
    gauge(out, "runpod_gpu_memory_total_bytes", help, each(|gpu| float(gpu.figures.memory_total)))?;
    let help = "Least GPU memory in use between jobs in the last ten minutes (--gpu-floor-window)";
    gauge(out, "runpod_gpu_memory_floor_bytes", help, each(|gpu| float(gpu.memory_floor)))?;
    gauge(out, "runpod_gpu_power_watts", "Power that a GPU draws", each(|gpu| gpu.figures.power_watts))?;
    let help = "Temperature of a GPU";
    gauge(out, "runpod_gpu_temperature_celsius", help, each(|gpu| gpu.figures.temperature_celsius))?;
    let help = "1 while a GPU is slowed down, by reason";
    gauge(out, "runpod_gpu_slowed_down", help, slowed_down(gpus))?;
    let help = "Memory errors of a GPU that could not be corrected, since its driver was loaded";
    counter(out, "runpod_gpu_ecc_errors", help, each(|gpu| float(gpu.figures.ecc_errors)))?;
    let help = "Critical errors of a GPU (Xid) since the worker started";
    counter(out, "runpod_gpu_xid_errors", help, each(|gpu| float(gpu.figures.xid_errors.map(|errors| errors.count))))
}

fn slowed_down(gpus: &[Gpu]) -> Series {
    let mut series = Vec::new();
    for (index, gpu) in gpus.iter().enumerate() {
        let Some(reasons) = &gpu.figures.slowdown else { continue };
        for reason in SlowdownReason::ALL {
            let value = if reasons.contains(&reason) { 1.0 } else { 0.0 };
            series.push((vec![label(index), ("reason", reason.as_str().to_owned())], value));
        }
    }
    series
}

fn encode_container(out: &mut DescriptorEncoder<'_>, usage: HostUsage) -> Result<(), Error> {
    let one = |value: Option<f64>| value.map(|value| (Vec::new(), value)).into_iter().collect();
    let help = "CPU time in the last seconds, as a share of what the container may use";
    gauge(out, "runpod_container_cpu_ratio", help, one(usage.cpu))?;
    let help = "Memory in use in the container, without page cache that can be given up";
    gauge(out, "runpod_container_memory_bytes", help, one(float(usage.memory_used)))?;
    let help = "Memory that the container may use";
    gauge(out, "runpod_container_memory_limit_bytes", help, one(float(usage.memory_limit)))
}

fn float(number: Option<u64>) -> Option<f64> {
    number.map(|number| number as f64)
}

/// The position of a GPU among those that the worker sees, which is CUDA's number for it.
fn label(index: usize) -> (&'static str, String) {
    ("gpu", index.to_string())
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, series: Series) -> Result<(), Error> {
    encode(out, name, help, MetricType::Gauge, series, ConstGauge::new)
}

fn counter(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, series: Series) -> Result<(), Error> {
    encode(out, name, help, MetricType::Counter, series, ConstCounter::new)
}

/// The description is written with or without series. A unit at the end of the name is reported.
fn encode<M: EncodeMetric>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    series: Series,
    metric: fn(f64) -> M,
) -> Result<(), Error> {
    let units = [Unit::Bytes, Unit::Celsius, Unit::Other("watts".to_owned()), Unit::Other("ratio".to_owned())];
    let with_unit = units.iter().find_map(|unit| Some((name.strip_suffix(unit.as_str())?.strip_suffix('_')?, unit)));
    let (stem, unit) = with_unit.map_or((name, None), |(stem, unit)| (stem, Some(unit)));
    let mut encoder = out.encode_descriptor(stem, &format!("{help}."), unit, kind)?;
    for (labels, value) in series {
        if labels.is_empty() {
            return metric(value).encode(encoder);
        }
        metric(value).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::sensors::gpu::{GpuFigures, Gpus, XidErrors};
    use crate::sensors::host::Host;
    use runpod_worker_core::{Incarnation, ProcessId, ProcessView};

    fn text(gpus: Gpus, host: Host, snapshot: Snapshot) -> String {
        let (_sender, snapshots) = watch::channel(snapshot);
        let mut metrics = Metrics::default();
        metrics.add(RuntimeMetrics::new(Sensors::new(gpus, host, Vec::new()), snapshots));
        let text = metrics.encode().unwrap();
        let ours = |line: &&str| line.contains("runpod_gpu") || line.contains("runpod_container");
        text.lines().filter(ours).map(|line| format!("{line}\n")).collect()
    }

    /// Every figure there can be.
    pub(in crate::metrics) fn everything() -> (Gpus, Host, Snapshot) {
        let figures = GpuFigures {
            uuid: Some("GPU-1".into()),
            name: Some("H100".into()),
            utilization: Some(0.57),
            memory_used: Some(60_000_000_000),
            memory_total: Some(80_000_000_000),
            power_watts: Some(412.5),
            temperature_celsius: Some(71.0),
            slowdown: Some(vec![SlowdownReason::SwPowerCap]),
            ecc_errors: Some(2),
            xid_errors: Some(XidErrors { count: 1, last: Some(79) }),
        };
        let gpus = vec![Gpu { figures, memory_floor: Some(20_000_000_000) }, Gpu::default()];
        let host = HostUsage { cpu: Some(0.25), memory_used: Some(1024), memory_limit: Some(4096) };
        let process = ProcessView {
            id: ProcessId(0),
            incarnation: Incarnation(1),
            phase: "serving",
            pid: None,
            device: Some("cuda:1".to_owned()),
            slots: 1,
            busy: 0,
            device_memory: Some(DeviceMemory { allocated: 10, reserved: Some(30), peak: Some(20) }),
            batching: None,
            last_exit: None,
        };
        let snapshot = Snapshot { processes: vec![process], ..Snapshot::default() };
        (Gpus::fixed(gpus), Host::fixed(host), snapshot)
    }

    #[test]
    fn everything_that_is_known_has_its_series() {
        let (gpus, host, snapshot) = everything();
        insta::assert_snapshot!(text(gpus, host, snapshot));
    }

    #[test]
    fn what_is_not_known_has_a_description_and_no_series() {
        let text = text(Gpus::absent(), Host::absent(), Snapshot::default());
        assert!(text.lines().all(|line| line.starts_with("# ")), "{text}");
        assert!(text.contains("# TYPE runpod_gpu_ecc_errors counter"), "{text}");
    }
}
