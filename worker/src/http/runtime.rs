//! `runtime` in `/health`, in the shape of RunPod's pod query and with more about each GPU. A figure that is not known is
//! left out.

use std::time::Duration;

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use crate::sensors::gpu::{Gpu as GpuView, GpuFigures};
use crate::sensors::host::HostUsage;
use crate::sensors::{self, Port as PortView, Sensors};
use runpod_worker_core::{DeviceMemory, SlowdownReason, Snapshot};

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(super) struct Runtime {
    uptime_in_seconds: u64,
    /// Absent when no GPUs are reported, which is not the same as none.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<Vec<Gpu>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Container>,
    ports: Vec<Port>,
}

#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Gpu {
    /// Its UUID, or what the handler calls it.
    id: String,
    /// As CUDA numbers it for this worker.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_util_percent: Option<f64>,
    /// In use, as a share of what there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_util_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_total_bytes: Option<u64>,
    /// The least in use between jobs, lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_floor_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    power_watts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature_celsius: Option<f64>,
    /// Empty when nothing slows it down.
    #[serde(skip_serializing_if = "Option::is_none")]
    throttle_reasons: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ecc_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xid_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_xid: Option<u64>,
    /// From the allocator of the handler process, when its last job was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Container {
    /// Of the CPUs that the container may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_percent: Option<f64>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    is_ip_public: bool,
    private_port: u16,
    public_port: u16,
    r#type: &'static str,
}

pub(super) fn runtime(sensors: &Sensors, uptime: Duration, snapshot: &Snapshot) -> Runtime {
    Runtime {
        uptime_in_seconds: uptime.as_secs(),
        gpus: gpus(sensors, snapshot),
        container: container(sensors.host.latest()),
        ports: sensors.ports.iter().map(port).collect(),
    }
}

/// Those that the driver reports, and those that only a handler reports.
fn gpus(sensors: &Sensors, snapshot: &Snapshot) -> Option<Vec<Gpu>> {
    let seen = sensors.gpus.latest();
    let mut allocated = sensors::handler_memory(snapshot);
    if seen.is_none() && allocated.is_empty() {
        return None;
    }
    let seen = seen.iter().flat_map(|gpus| gpus.iter());
    let mut gpus: Vec<Gpu> = seen.enumerate().map(|(index, view)| gpu(index, view, allocated.remove(&index))).collect();
    let unseen = GpuView::default();
    gpus.extend(allocated.into_iter().map(|(index, memory)| gpu(index, &unseen, Some(memory))));
    Some(gpus)
}

fn gpu(index: usize, view: &GpuView, memory: Option<DeviceMemory>) -> Gpu {
    let GpuFigures { uuid, name, utilization, memory_used, memory_total, .. } = view.figures.clone();
    let GpuFigures { power_watts, temperature_celsius, ref slowdown, ecc_errors, xid_errors, .. } = view.figures;
    let share = memory_used.zip(memory_total.filter(|total| *total > 0));
    let words = |reasons: &Vec<SlowdownReason>| reasons.iter().map(|reason| reason.as_str()).collect();
    Gpu {
        id: uuid.unwrap_or_else(|| format!("cuda:{index}")),
        index,
        gpu_util_percent: utilization.map(percent),
        memory_util_percent: share.map(|(used, total)| percent(used as f64 / total as f64)),
        name,
        memory_used_bytes: memory_used,
        memory_total_bytes: memory_total,
        memory_floor_bytes: view.memory_floor,
        power_watts,
        temperature_celsius,
        throttle_reasons: slowdown.as_ref().map(words),
        ecc_errors,
        xid_errors: xid_errors.map(|errors| errors.count),
        last_xid: xid_errors.and_then(|errors| errors.last),
        allocated_bytes: memory.map(|memory| memory.allocated),
        reserved_bytes: memory.and_then(|memory| memory.reserved),
        peak_bytes: memory.and_then(|memory| memory.peak),
    }
}

fn container(usage: HostUsage) -> Option<Container> {
    let share = usage.memory_used.zip(usage.memory_limit.filter(|limit| *limit > 0));
    let memory_percent = share.map(|(used, limit)| percent(used as f64 / limit as f64));
    let cpu_percent = usage.cpu.map(percent);
    (cpu_percent.is_some() || memory_percent.is_some()).then_some(Container { cpu_percent, memory_percent })
}

fn port(view: &PortView) -> Port {
    Port {
        ip: view.ip.map(|ip| ip.to_string()),
        is_ip_public: view.is_public(),
        private_port: view.private,
        public_port: view.public,
        r#type: view.kind,
    }
}

/// A share in percent, with one digit behind the point.
fn percent(share: f64) -> f64 {
    (share * 1000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use serde_json::{Value, json};

    use super::*;
    use crate::sensors::gpu::{Gpus, XidErrors};
    use crate::sensors::host::Host;
    use runpod_worker_core::{Incarnation, ProcessId, ProcessView};

    const GIB: u64 = 1 << 30;

    fn shown(gpus: Gpus, host: HostUsage, ports: Vec<PortView>, snapshot: &Snapshot) -> Value {
        let sensors = Sensors::new(gpus, Host::fixed(host), ports);
        serde_json::to_value(runtime(&sensors, Duration::from_millis(61_900), snapshot)).unwrap()
    }

    fn handler_on(device: &str) -> Snapshot {
        let process = ProcessView {
            id: ProcessId(0),
            incarnation: Incarnation(1),
            phase: "serving",
            pid: None,
            device: Some(device.to_owned()),
            busy: 0,
            device_memory: Some(DeviceMemory { allocated: GIB, reserved: Some(3 * GIB), peak: Some(2 * GIB) }),
            batching: None,
            last_exit: None,
        };
        Snapshot { processes: vec![process], ..Snapshot::default() }
    }

    #[test]
    fn all_that_is_known_stands_where_the_pod_query_has_it() {
        let figures = GpuFigures {
            uuid: Some("GPU-5d".into()),
            name: Some("NVIDIA L4".into()),
            utilization: Some(0.57),
            memory_used: Some(6 * GIB),
            memory_total: Some(24 * GIB),
            power_watts: Some(71.5),
            temperature_celsius: Some(66.0),
            slowdown: Some(vec![SlowdownReason::SwThermal]),
            ecc_errors: Some(0),
            xid_errors: Some(XidErrors { count: 2, last: Some(31) }),
        };
        let gpus = Gpus::fixed(vec![GpuView { figures, memory_floor: Some(GIB) }]);
        let host = HostUsage { cpu: Some(0.125), memory_used: Some(GIB), memory_limit: Some(8 * GIB) };
        let tcp =
            PortView { ip: Some(IpAddr::from(Ipv4Addr::new(203, 0, 113, 7))), private: 22, public: 10341, kind: "tcp" };
        let ports = vec![PortView::http("127.0.0.1:8001".parse().unwrap()), tcp];
        insta::assert_json_snapshot!(shown(gpus, host, ports, &handler_on("cuda:0")));
    }

    #[test]
    fn what_is_not_known_is_not_there() {
        let nothing = || shown(Gpus::absent(), HostUsage::default(), Vec::new(), &Snapshot::default());
        assert_eq!(nothing(), json!({"uptimeInSeconds": 61, "ports": []}));
        let gpus = Gpus::fixed(vec![GpuView::default()]);
        let bare = shown(gpus, HostUsage::default(), Vec::new(), &Snapshot::default());
        assert_eq!(bare["gpus"], json!([{"id": "cuda:0", "index": 0}]));
    }

    #[test]
    fn a_gpu_that_only_the_handler_reports_is_shown_with_what_it_reports() {
        let shown = shown(Gpus::absent(), HostUsage::default(), Vec::new(), &handler_on("cuda:1"));
        let memory = json!({"allocatedBytes": GIB, "reservedBytes": 3 * GIB, "peakBytes": 2 * GIB});
        let mut expected = json!([{"id": "cuda:1", "index": 1}]);
        expected[0].as_object_mut().unwrap().extend(memory.as_object().unwrap().clone());
        assert_eq!(shown["gpus"], expected);
    }
}
