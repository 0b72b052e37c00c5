//! GPUs that run below their normal clocks. The worker goes on taking jobs, because it is slower and not broken; only what
//! `/health` and the metrics show changes.

use std::fmt;

/// What slows a GPU down. Limits that people set, such as application clocks, do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlowdownReason {
    /// Its hardware halves the clocks or more, because it is too hot.
    HwThermal,
    /// Its driver lowers the clocks, because it or its memory is too hot.
    SwThermal,
    /// The machine's power supply limits it, and its hardware halves the clocks or more.
    HwPowerBrake,
    /// It draws as much power as it is allowed to, which is normal for a busy card.
    SwPowerCap,
    /// Its hardware halves the clocks or more, for a reason above or one that the driver does not report.
    HwSlowdown,
}

impl SlowdownReason {
    /// All of them, for metrics that show each one.
    pub const ALL: [Self; 5] =
        [Self::HwThermal, Self::SwThermal, Self::HwPowerBrake, Self::SwPowerCap, Self::HwSlowdown];

    /// The word used in `/health`, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HwThermal => "hw_thermal",
            Self::SwThermal => "sw_thermal",
            Self::HwPowerBrake => "hw_power_brake",
            Self::SwPowerCap => "sw_power_cap",
            Self::HwSlowdown => "hw_slowdown",
        }
    }
}

/// A GPU that is slowed down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuSlowdown {
    /// Its index among the GPUs that this worker sees.
    pub gpu: usize,
    /// The reasons; at least one.
    pub reasons: Vec<SlowdownReason>,
}

impl fmt::Display for GpuSlowdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<&str> = self.reasons.iter().map(|reason| reason.as_str()).collect();
        write!(f, "GPU {} is slowed down ({})", self.gpu, reasons.join(", "))
    }
}
