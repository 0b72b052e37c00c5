//! What is measured of one GPU.

use runpod_worker_core::SlowdownReason;

/// Figures of one GPU, or of one slice of it. A figure that the card or the container does not give is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuFigures {
    /// Its UUID, such as `GPU-5d…` or `MIG-…`.
    pub uuid: Option<String>,
    /// Its product name.
    pub name: Option<String>,
    /// Share of the last moments in which it computed, from 0 to 1.
    pub utilization: Option<f64>,
    /// Bytes of its memory in use by all processes.
    pub memory_used: Option<u64>,
    /// Bytes of its memory.
    pub memory_total: Option<u64>,
    /// Power that it draws, in watts.
    pub power_watts: Option<f64>,
    /// Its temperature, in degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// What slows it down at this moment.
    pub slowdown: Option<Vec<SlowdownReason>>,
    /// Memory errors since its driver was loaded that could not be corrected.
    pub ecc_errors: Option<u64>,
    /// Critical errors since the worker started, where the driver reports them.
    pub xid_errors: Option<XidErrors>,
}

/// Errors that the driver calls Xid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XidErrors {
    /// How many.
    pub count: u64,
    /// NVIDIA's number of the last one.
    pub last: Option<u64>,
}

/// A source of figures. A call may block for as long as the driver does not answer.
pub trait GpuReader {
    /// All GPUs that this worker sees, in the order in which CUDA numbers them.
    fn read(&mut self) -> Vec<GpuFigures>;
}

/// One GPU at the time of the last sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpu {
    /// Its figures.
    pub figures: GpuFigures,
    /// The least memory in use between two jobs within the floor window. It rises when something leaks.
    pub memory_floor: Option<u64>,
}
