//! Deals the GPUs of this machine out to local workers.

use std::path::Path;
use std::str::FromStr;

use super::error::FleetError;

/// `--gpus`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuChoice {
    /// Those of this machine that `CUDA_VISIBLE_DEVICES` does not hide.
    Auto,
    /// Leave the workers' environment as it is.
    None,
    /// These, by index or UUID.
    These(Vec<String>),
}

impl FromStr for GpuChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let ids: Vec<_> = text.split(',').map(|id| id.trim().to_owned()).collect();
        let fits = |id: &String| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_/:.".contains(c));
        if ids.iter().all(fits) { Ok(Self::These(ids)) } else { Err("give auto, none or a list like 0,1") }
    }
}

/// The GPUs, dealt out to the workers of all pools in sets of equal size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gpus {
    sets: Vec<String>,
    /// How many workers come before the first one of this pool.
    earlier: usize,
}

impl Gpus {
    /// The sets of `per_worker` GPUs that the choice gives on this machine. GPUs that fill no set stay unused, with a warning.
    ///
    /// # Errors
    /// When there are GPUs, but not enough for one worker.
    pub(crate) fn new(choice: &GpuChoice, per_worker: usize) -> Result<Self, FleetError> {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let ids = match choice {
            GpuChoice::None => Vec::new(),
            GpuChoice::These(ids) => ids.clone(),
            GpuChoice::Auto => detect(visible.as_deref(), Path::new("/dev")),
        };
        Self::of(&ids, per_worker)
    }

    fn of(ids: &[String], per_worker: usize) -> Result<Self, FleetError> {
        let sets = ids.chunks_exact(per_worker.max(1));
        let unused = sets.remainder();
        if unused.len() == ids.len() && !unused.is_empty() {
            return Err(FleetError::TooFewGpus { found: ids.len(), per_worker });
        }
        if !unused.is_empty() {
            let gpus = unused.join(",");
            tracing::warn!(gpus, "These GPUs stay unused: they are fewer than --gpus-per-worker {per_worker}.");
        }
        Ok(Self { sets: sets.map(|set| set.join(",")).collect(), earlier: 0 })
    }

    /// The same sets for a pool that comes after `earlier` workers of other pools.
    #[must_use]
    pub(crate) fn after(&self, earlier: u16) -> Self {
        Self { sets: self.sets.clone(), earlier: usize::from(earlier) }
    }

    /// `CUDA_VISIBLE_DEVICES` of a worker of this pool. With more workers than sets, workers share.
    #[must_use]
    pub(crate) fn set(&self, worker: u16) -> Option<String> {
        self.sets.get((self.earlier + usize::from(worker)).checked_rem(self.sets.len())?).cloned()
    }

    /// How many workers can have GPUs of their own; 0 when GPUs are not dealt out.
    #[must_use]
    pub(crate) fn sets(&self) -> usize {
        self.sets.len()
    }
}

/// Counts the driver's device files, which needs no library: `/dev/nvidia0`, `/dev/nvidia1`, …
fn detect(visible: Option<&str>, devices: &Path) -> Vec<String> {
    if let Some(visible) = visible {
        return visible
            .split(',')
            .map(str::trim)
            .filter(|id| !id.is_empty() && *id != "-1")
            .map(str::to_owned)
            .collect();
    }
    let names = std::fs::read_dir(devices).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("nvidia")?.parse::<u32>().ok();
    let mut numbers: Vec<_> = names.filter_map(number).collect();
    // CUDA counts from 0, whatever gaps the device files of a container have.
    numbers.sort_unstable();
    (0..numbers.len()).map(|index| index.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_sets_in_turn() {
        let gpus = Gpus::new(&"0,1,2,3".parse().unwrap(), 2).unwrap();
        assert_eq!([0, 1, 2].map(|worker| gpus.set(worker).unwrap()), ["0,1", "2,3", "0,1"]);
        assert_eq!(Gpus::new(&GpuChoice::None, 1).unwrap().set(0), None);
        assert!("0,,1".parse::<GpuChoice>().is_err());
    }

    #[test]
    fn pools_share_the_sets() {
        let gpus = Gpus::new(&"0,1".parse().unwrap(), 1).unwrap();
        let (first, second) = (gpus.after(0), gpus.after(1));
        assert_eq!([first.set(0), second.set(0), second.set(1)].map(Option::unwrap), ["0", "1", "0"]);
    }

    #[test]
    fn every_set_is_full() {
        let ids = ["0", "1", "2"].map(str::to_owned);
        let gpus = Gpus::of(&ids, 2).unwrap();
        assert_eq!([0, 1].map(|worker| gpus.set(worker).unwrap()), ["0,1", "0,1"], "GPU 2 stays unused");
        let refusal = Gpus::of(&ids[..1], 2);
        assert!(matches!(refusal, Err(FleetError::TooFewGpus { found: 1, per_worker: 2 })), "{refusal:?}");
        assert_eq!(Gpus::of(&[], 2).unwrap().sets(), 0, "a machine without GPUs");
    }

    #[test]
    fn device_files_are_counted_unless_a_list_is_given() {
        let devices = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidia2", "nvidiactl", "nvidia-uvm", "null"] {
            std::fs::write(devices.path().join(name), "").unwrap();
        }
        assert_eq!(detect(None, devices.path()), ["0", "1"]);
        assert_eq!(detect(Some("GPU-7f, 3"), devices.path()), ["GPU-7f", "3"]);
        assert!(detect(Some(""), devices.path()).is_empty());
    }
}
