//! The figures that RunPod's pod query has under `runtime`, for `/health` and metrics.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::gpu::Gpus;
use super::host::Host;
use runpod_worker_core::{DeviceMemory, Snapshot};

/// A port of the container and how it is reached from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Address to reach it at, where it is known.
    pub ip: Option<IpAddr>,
    /// Number inside the container.
    pub private: u16,
    /// Number outside.
    pub public: u16,
    /// `http` or `tcp`.
    pub kind: &'static str,
}

impl Port {
    /// The worker's own server.
    pub fn http(address: SocketAddr) -> Self {
        Self { ip: Some(address.ip()), private: address.port(), public: address.port(), kind: "http" }
    }

    /// Whether its address can be reached from everywhere.
    pub fn is_public(&self) -> bool {
        match self.ip {
            Some(IpAddr::V4(ip)) => {
                let [first, second, ..] = ip.octets();
                // Shared by the customers of a provider: RFC 6598.
                let shared = first == 100 && (64..128).contains(&second);
                !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared)
            }
            Some(IpAddr::V6(ip)) => {
                !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
            }
            None => false,
        }
    }
}

/// Where the figures come from.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// GPUs.
    pub gpus: Gpus,
    /// The container.
    pub host: Host,
    /// Ports.
    pub ports: Arc<[Port]>,
}

impl Runtime {
    /// Shows what these tell.
    pub fn new(gpus: Gpus, host: Host, ports: Vec<Port>) -> Self {
        Self { gpus, host, ports: ports.into() }
    }
}

/// What the handler processes' allocators hold, by the position of the GPU among those that the worker sees.
pub fn allocated(snapshot: &Snapshot) -> BTreeMap<usize, DeviceMemory> {
    // One of several processes has a GPU of its own and calls it the first.
    let several = snapshot.processes.len() > 1;
    let held = snapshot.processes.iter().filter_map(|process| {
        let own = cuda_index(process.device.as_deref()?)?;
        Some((if several { process.id.0 } else { own }, process.device_memory?))
    });
    held.collect()
}

/// The number in `cuda:1`; plain `cuda` is the first.
fn cuda_index(device: &str) -> Option<usize> {
    match device.strip_prefix("cuda")? {
        "" => Some(0),
        index => index.strip_prefix(':')?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runpod_worker_core::{ProcessId, ProcessView};

    fn process(id: usize, device: &str, allocated: u64) -> ProcessView {
        ProcessView {
            id: ProcessId(id),
            epoch: runpod_worker_core::Epoch(1),
            phase: "serving",
            pid: None,
            device: Some(device.to_owned()),
            busy: 0,
            device_memory: Some(DeviceMemory { allocated, reserved: None, peak: None }),
            last_exit: None,
        }
    }

    fn held(processes: Vec<ProcessView>) -> Vec<(usize, u64)> {
        let memory = allocated(&Snapshot { processes, ..Snapshot::default() });
        memory.into_iter().map(|(gpu, memory)| (gpu, memory.allocated)).collect()
    }

    #[test]
    fn one_process_sees_what_the_worker_sees_and_each_of_several_has_a_gpu_of_its_own() {
        assert_eq!(held(vec![process(0, "cuda:2", 7)]), [(2, 7)]);
        assert_eq!(held(vec![process(0, "cuda", 7)]), [(0, 7)]);
        assert_eq!(held(vec![process(0, "cuda:0", 7), process(1, "cuda:0", 8)]), [(0, 7), (1, 8)]);
        assert_eq!(held(vec![process(0, "cpu", 7), process(1, "cuda:x", 8)]), []);
    }

    #[test]
    fn addresses_for_use_inside_are_not_public() {
        let is_public = |ip: &str| Port { ip: ip.parse().ok(), private: 1, public: 1, kind: "tcp" }.is_public();
        for ip in ["8.8.8.8", "100.128.0.1", "2606:4700::1"] {
            assert!(is_public(ip), "{ip}");
        }
        for ip in ["127.0.0.1", "0.0.0.0", "10.0.0.1", "100.65.0.1", "169.254.1.1", "::1", "fe80::1", "fd00::1", "?"] {
            assert!(!is_public(ip), "{ip}");
        }
    }
}
