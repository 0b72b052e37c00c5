//! A worker as RunPod's `Pod`, with the fields that its tools read. Unknown figures are null.

use async_graphql::SimpleObject;

use crate::local::{self, LocalWorker};

/// A worker process of this machine.
#[derive(SimpleObject)]
pub(super) struct Pod {
    /// The worker id.
    id: String,
    name: String,
    desired_status: &'static str,
    /// Always 0: the price is unknown.
    cost_per_hr: f64,
    container_disk_in_gb: Option<i32>,
    docker_args: Option<String>,
    docker_id: Option<String>,
    /// Always empty: the environment holds keys.
    env: Vec<String>,
    gpu_count: i32,
    image_name: Option<String>,
    last_status_change: Option<String>,
    machine_id: Option<String>,
    memory_in_gb: Option<i32>,
    pod_type: Option<String>,
    port: Option<i32>,
    ports: Option<String>,
    uptime_seconds: u64,
    vcpu_count: Option<i32>,
    volume_in_gb: Option<i32>,
    volume_mount_path: Option<String>,
    machine: Machine,
    /// Null for a worker that does not run; such workers are not listed.
    runtime: Option<Runtime>,
}

#[derive(SimpleObject)]
struct Machine {
    gpu_display_name: Option<String>,
}

#[derive(SimpleObject)]
struct Runtime {
    uptime_in_seconds: u64,
    ports: Vec<Port>,
    /// From the worker's own `/health`.
    gpus: Vec<Gpu>,
    container: Option<Container>,
}

#[derive(SimpleObject)]
struct Port {
    ip: &'static str,
    is_ip_public: bool,
    private_port: u16,
    public_port: u16,
    r#type: &'static str,
}

#[derive(SimpleObject)]
struct Gpu {
    id: String,
    gpu_util_percent: Option<f64>,
    /// Used memory, in percent of the GPU's memory.
    memory_util_percent: Option<f64>,
}

#[derive(SimpleObject)]
struct Container {
    /// In percent of all cores.
    cpu_percent: f64,
    /// In percent of the container's memory limit, or of the machine's memory.
    memory_percent: f64,
}

impl From<local::Gpu> for Gpu {
    fn from(gpu: local::Gpu) -> Self {
        let local::Gpu { id, gpu_util_percent, memory_util_percent, .. } = gpu;
        Self { id, gpu_util_percent, memory_util_percent }
    }
}

impl Pod {
    pub(super) fn new(worker: LocalWorker, gpus: Vec<local::Gpu>) -> Self {
        let uptime = worker.uptime.as_secs();
        let port =
            |port| Port { ip: "127.0.0.1", is_ip_public: false, private_port: port, public_port: port, r#type: "http" };
        let usage = worker.usage;
        Self {
            name: worker.id.clone(),
            id: worker.id,
            desired_status: "RUNNING",
            cost_per_hr: 0.0,
            container_disk_in_gb: None,
            docker_args: None,
            docker_id: None,
            env: Vec::new(),
            gpu_count: i32::try_from(gpus.len()).unwrap_or(i32::MAX),
            image_name: None,
            last_status_change: None,
            machine_id: None,
            memory_in_gb: usage.and_then(|usage| i32::try_from(usage.memory_total >> 30).ok()),
            pod_type: None,
            port: worker.http_port.map(i32::from),
            ports: worker.http_port.map(|port| format!("{port}/http")),
            uptime_seconds: uptime,
            vcpu_count: std::thread::available_parallelism().ok().and_then(|cores| i32::try_from(cores.get()).ok()),
            volume_in_gb: None,
            volume_mount_path: None,
            machine: Machine { gpu_display_name: gpus.first().and_then(|gpu| gpu.name.clone()) },
            runtime: Some(Runtime {
                uptime_in_seconds: uptime,
                ports: worker.http_port.map(port).into_iter().collect(),
                gpus: gpus.into_iter().map(Gpu::from).collect(),
                container: usage
                    .map(|usage| Container { cpu_percent: usage.cpu_percent, memory_percent: usage.memory_percent }),
            }),
        }
    }
}
