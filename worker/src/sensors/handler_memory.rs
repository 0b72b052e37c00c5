//! GPU memory that the handler processes report for themselves.

use std::collections::BTreeMap;

use runpod_worker_core::{DeviceMemory, Snapshot};

/// What the handler processes' allocators hold, by the position of the GPU among those that the worker sees.
pub fn handler_memory(snapshot: &Snapshot) -> BTreeMap<usize, DeviceMemory> {
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
            incarnation: runpod_worker_core::Incarnation(1),
            phase: "serving",
            pid: None,
            device: Some(device.to_owned()),
            busy: 0,
            device_memory: Some(DeviceMemory { allocated, reserved: None, peak: None }),
            batching: None,
            last_exit: None,
        }
    }

    fn held(processes: Vec<ProcessView>) -> Vec<(usize, u64)> {
        let memory = handler_memory(&Snapshot { processes, ..Snapshot::default() });
        memory.into_iter().map(|(gpu, memory)| (gpu, memory.allocated)).collect()
    }

    #[test]
    fn one_process_sees_what_the_worker_sees_and_each_of_several_has_a_gpu_of_its_own() {
        assert_eq!(held(vec![process(0, "cuda:2", 7)]), [(2, 7)]);
        assert_eq!(held(vec![process(0, "cuda", 7)]), [(0, 7)]);
        assert_eq!(held(vec![process(0, "cuda:0", 7), process(1, "cuda:0", 8)]), [(0, 7), (1, 8)]);
        assert_eq!(held(vec![process(0, "cpu", 7), process(1, "cuda:x", 8)]), []);
    }
}
