//! GPUs through NVIDIA's management library, which is opened at run time.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};

use super::figures::{GpuFigures, GpuReader, XidErrors};
use super::visible::{Pick, VisibleDevices};
use crate::sensors::limits::GPU_EVENTS;
use runpod_worker_core::SlowdownReason;

/// Milliwatts that no card reaches: some drivers report "no value" as a huge number.
const MAX_POWER: u32 = 100_000_000;
/// Degrees Celsius that no card reaches.
const MAX_TEMPERATURE: u32 = 500;

const REASONS: [(ThrottleReasons, SlowdownReason); 5] = [
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, SlowdownReason::HwThermal),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, SlowdownReason::SwThermal),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, SlowdownReason::HwPowerBrake),
    (ThrottleReasons::SW_POWER_CAP, SlowdownReason::SwPowerCap),
    (ThrottleReasons::HW_SLOWDOWN, SlowdownReason::HwSlowdown),
];

/// The GPUs of this worker. One that cannot be reached keeps its place, so that the others keep their numbers.
pub(super) struct NvmlReader<'nvml> {
    gpus: Vec<Option<Visible<'nvml>>>,
}

struct Visible<'nvml> {
    device: Device<'nvml>,
    uuid: Option<String>,
    name: Option<String>,
    /// Where the driver reports critical errors; `None` where it does not.
    events: Option<EventSet<'nvml>>,
    xid: XidErrors,
}

impl<'nvml> NvmlReader<'nvml> {
    /// Finds the visible GPUs.
    ///
    /// # Errors
    /// When the driver does not list its GPUs.
    pub(super) fn new(nvml: &'nvml Nvml, visible: &VisibleDevices) -> Result<Self, NvmlError> {
        let count = nvml.device_count()?;
        let uuid = |index| nvml.device_by_index(index).and_then(|device| device.uuid()).unwrap_or_default();
        let listed: Vec<String> = (0..count).map(uuid).collect();
        let find = |pick: Pick| {
            let device = match &pick {
                Pick::Index(index) => nvml.device_by_index(*index),
                Pick::Uuid(uuid) => nvml.device_by_uuid(uuid.as_str()),
            };
            if let Err(error) = &device {
                tracing::warn!(%error, gpu = ?pick, "This GPU cannot be read. It has no figures.");
            }
            Some(Visible::new(nvml, device.ok()?))
        };
        Ok(Self { gpus: visible.pick(&listed).into_iter().map(find).collect() })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.gpus.len()
    }
}

impl GpuReader for NvmlReader<'_> {
    fn read(&mut self) -> Vec<GpuFigures> {
        let read = |(index, gpu): (usize, &mut Option<Visible<'_>>)| {
            gpu.as_mut().map(|gpu| gpu.read(index)).unwrap_or_default()
        };
        self.gpus.iter_mut().enumerate().map(read).collect()
    }
}

impl<'nvml> Visible<'nvml> {
    fn new(nvml: &'nvml Nvml, device: Device<'nvml>) -> Self {
        let events = nvml.create_event_set().ok();
        let events = events.and_then(|set| device.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok());
        Self { uuid: device.uuid().ok(), name: device.name().ok(), device, events, xid: XidErrors::default() }
    }

    /// A figure that this card, this driver or this container does not give is absent. The error is not logged: the answer
    /// would be the same the next time.
    fn read(&mut self, index: usize) -> GpuFigures {
        self.take_events(index);
        let device = &self.device;
        let memory = device.memory_info().ok().filter(|memory| memory.used <= memory.total);
        let ecc = |counter| device.total_ecc_errors(MemoryError::Uncorrected, counter);
        GpuFigures {
            uuid: self.uuid.clone(),
            name: self.name.clone(),
            utilization: device.utilization_rates().ok().and_then(|rates| known(rates.gpu, 100)).map(|gpu| gpu / 100.0),
            memory_used: memory.as_ref().map(|memory| memory.used),
            memory_total: memory.map(|memory| memory.total),
            power_watts: device
                .power_usage()
                .ok()
                .and_then(|power| known(power, MAX_POWER))
                .map(|power| power / 1000.0),
            temperature_celsius: device
                .temperature(TemperatureSensor::Gpu)
                .ok()
                .and_then(|t| known(t, MAX_TEMPERATURE)),
            slowdown: device.current_throttle_reasons().ok().map(reasons),
            ecc_errors: ecc(EccCounter::Volatile).ok(),
            xid_errors: self.events.is_some().then_some(self.xid),
        }
    }

    fn take_events(&mut self, index: usize) {
        let Some(events) = &self.events else { return };
        for _ in 0..GPU_EVENTS {
            // Ends with a timeout when there are no more.
            let Ok(event) = events.wait(0) else { return };
            let Some(error) = event.event_data else { continue };
            self.xid.count += 1;
            if let XidError::Value(number) = error {
                self.xid.last = Some(number);
            }
            tracing::error!(gpu = index, xid = self.xid.last, "The driver has reported a critical error of a GPU.");
        }
    }
}

fn known(value: u32, most: u32) -> Option<f64> {
    (value <= most).then(|| f64::from(value))
}

fn reasons(found: ThrottleReasons) -> Vec<SlowdownReason> {
    REASONS.iter().filter(|(bit, _)| found.contains(*bit)).map(|(_, reason)| *reason).collect()
}
