//! GPUs that are slowed down. Such a worker goes on taking jobs: it is slower, not broken. What changes is what is seen from
//! outside.

use std::fmt;

/// What slows a GPU down. Limits that people set, such as application clocks, are not among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlowdownReason {
    /// Its hardware halves the clocks or more, because it is too hot.
    HwThermal,
    /// Its driver lowers the clocks, because it or its memory is too hot.
    SwThermal,
    /// The machine's power supply asks for less, and the clocks are halved or more.
    HwPowerBrake,
    /// It draws as much power as it may. Normal for a card that is kept busy.
    SwPowerCap,
    /// Its hardware halves the clocks or more, for one of the reasons above or one that is not told.
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
    /// Position among the GPUs that this worker sees.
    pub gpu: usize,
    /// Why; at least one.
    pub reasons: Vec<SlowdownReason>,
}

impl fmt::Display for GpuSlowdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<&str> = self.reasons.iter().map(|reason| reason.as_str()).collect();
        write!(f, "GPU {} is slowed down ({})", self.gpu, reasons.join(", "))
    }
}

/// One sentence about all of them; `None` when there is none.
pub(crate) fn describe_slowdowns(gpus: &[GpuSlowdown]) -> Option<String> {
    let gpus: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    (!gpus.is_empty()).then(|| gpus.join("; "))
}
