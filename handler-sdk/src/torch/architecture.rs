//! Fitness check: whether this libtorch has kernels for this GPU.

use std::fmt;

use runpod_handler_protocol::CheckReport;

/// A compute capability, such as 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Capability {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// One target that libtorch was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Machine code, which runs on this architecture and its later minor versions.
    Machine(Capability),
    /// Machine code with features of exactly this architecture (`sm_90a`).
    Exact(Capability),
    /// Intermediate code (PTX), which the driver compiles for any later architecture.
    Intermediate(Capability),
}

impl Target {
    fn runs_on(self, device: Capability) -> bool {
        match self {
            Self::Machine(code) => code.major == device.major && code.minor <= device.minor,
            Self::Exact(code) => code == device,
            Self::Intermediate(code) => code <= device,
        }
    }

    fn capability(self) -> Capability {
        match self {
            Self::Machine(code) | Self::Exact(code) | Self::Intermediate(code) => code,
        }
    }
}

/// Compares the device with the compiler flags in libtorch's description of its build.
pub(super) fn check(device: Option<Capability>, config: &str) -> CheckReport {
    const NAME: &str = "gpu_architecture";
    let codes = codes(config);
    let Some(device) = device else { return CheckReport::skipped(NAME, "the driver reports no GPU") };
    if codes.is_empty() {
        return CheckReport::skipped(
            NAME,
            format!("libtorch does not report its GPU targets; the GPU has compute capability {device}"),
        );
    }
    let mut listed: Vec<String> = codes.iter().map(|code| code.capability().to_string()).collect();
    listed.dedup();
    let listed = listed.join(", ");
    if codes.iter().any(|code| code.runs_on(device)) {
        return CheckReport::ok(
            NAME,
            format!("the GPU has compute capability {device}, libtorch was compiled for {listed}"),
        );
    }
    CheckReport::failed(
        NAME,
        format!("the GPU has compute capability {device}, but libtorch was compiled only for {listed}"),
        "choose a GPU type with one of these compute capabilities, or an image whose libtorch was compiled for this GPU",
    )
}

/// Reads flags such as `-gencode;arch=compute_90,code=sm_90`.
fn codes(config: &str) -> Vec<Target> {
    let words = config.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '=')));
    words.filter_map(|word| word.strip_prefix("code=").and_then(target)).collect()
}

fn target(name: &str) -> Option<Target> {
    if let Some(number) = name.strip_prefix("compute_") {
        return capability(number).map(Target::Intermediate);
    }
    let number = name.strip_prefix("sm_")?;
    match number.strip_suffix('a') {
        Some(number) => capability(number).map(Target::Exact),
        // `sm_100f`, code for a family of architectures, is treated like `sm_100`.
        None => capability(number.trim_end_matches('f')).map(Target::Machine),
    }
}

fn capability(number: &str) -> Option<Capability> {
    let number: u32 = number.parse().ok()?;
    Some(Capability { major: number / 10, minor: number % 10 })
}

#[cfg(test)]
mod tests {
    use runpod_handler_protocol::CheckStatus;

    use super::*;

    /// From libtorch 2.11.0 for CUDA 13.0.
    const CONFIG: &str = "  - CUDA Runtime 13.0\n  - NVCC architecture flags: \
        -gencode;arch=compute_75,code=sm_75;-gencode;arch=compute_80,code=sm_80;-gencode;arch=compute_86,code=sm_86;\
        -gencode;arch=compute_90,code=sm_90;-gencode;arch=compute_100,code=sm_100;-gencode;arch=compute_120,code=sm_120\n  \
        - CuDNN 91.9\n";

    fn status(device: (u32, u32), config: &str) -> CheckStatus {
        check(Some(Capability { major: device.0, minor: device.1 }), config).status
    }

    #[test]
    fn the_device_must_be_in_the_list_or_a_later_minor_version_of_an_entry() {
        let (ok, failed) = (CheckStatus::Ok, CheckStatus::Failed);
        for (device, expected) in [
            ((7, 5), ok),
            ((8, 6), ok),
            ((8, 9), ok),
            ((9, 0), ok),
            ((10, 3), ok),
            ((12, 0), ok),
            ((6, 1), failed),
            ((7, 0), failed),
            ((11, 0), failed),
        ] {
            assert_eq!(status(device, CONFIG), expected, "{device:?}");
        }
    }

    #[test]
    fn exact_code_runs_on_one_architecture_and_intermediate_code_on_all_later_ones() {
        assert_eq!(status((9, 0), "code=sm_90a"), CheckStatus::Ok);
        assert_eq!(status((9, 1), "code=sm_90a"), CheckStatus::Failed);
        assert_eq!(status((12, 0), "code=compute_90"), CheckStatus::Ok);
        assert_eq!(status((8, 9), "code=compute_90"), CheckStatus::Failed);
    }

    #[test]
    fn a_failure_names_both_sides_and_the_fix() {
        let report = check(Some(Capability { major: 6, minor: 1 }), CONFIG);
        assert_eq!(
            report.detail,
            "the GPU has compute capability 6.1, but libtorch was compiled only for 7.5, 8.0, 8.6, 9.0, 10.0, 12.0"
        );
        assert!(report.fix.contains("GPU type"), "{report:?}");
    }

    #[test]
    fn an_unknown_gpu_or_target_skips_the_check() {
        assert_eq!(check(None, CONFIG).status, CheckStatus::Skipped);
        assert_eq!(status((9, 0), "no flags, code=sm_ and code=sm_x"), CheckStatus::Skipped);
    }
}
