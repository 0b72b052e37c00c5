//! Which GPUs are this worker's.

/// The variables of the environment that choose GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisibleDevices {
    /// `CUDA_VISIBLE_DEVICES`: indices or UUIDs, in the order in which CUDA numbers them from 0. Empty for none.
    pub cuda: Option<String>,
    /// `NVIDIA_VISIBLE_DEVICES`: the request to the container runtime; indices are those of the machine.
    pub nvidia: Option<String>,
}

/// How to find one of this worker's GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// By its position among all that the driver lists.
    Index(u32),
    /// By its whole UUID.
    Uuid(String),
}

impl VisibleDevices {
    /// Chooses among the GPUs that the driver lists, given their UUIDs.
    ///
    /// Indices are taken in the driver's order, which is that of the bus. CUDA's default order differs from it only on
    /// machines with GPUs of several kinds.
    pub(super) fn pick(&self, listed: &[String]) -> Vec<Pick> {
        if let Some(cuda) = &self.cuda {
            // As in CUDA, everything after the first entry that is not a GPU is ignored.
            return cuda.split(',').map_while(|entry| find(entry.trim(), listed)).collect();
        }
        let every = || (0..).take(listed.len()).map(Pick::Index).collect();
        let Some(nvidia) = self.nvidia.as_deref() else { return every() };
        let entries: Vec<&str> = nvidia.split(',').map(str::trim).collect();
        match entries.as_slice() {
            ["" | "all"] => every(),
            ["none" | "void"] => Vec::new(),
            // A container sees only the GPUs that it was given, numbered from 0.
            _ if entries.len() >= listed.len() => every(),
            _ => entries.iter().filter_map(|entry| find(entry, listed)).collect(),
        }
    }
}

/// The GPU of an index or of a UUID, which may be cut short. Slices of a GPU are not listed and have UUIDs of their own.
fn find(entry: &str, listed: &[String]) -> Option<Pick> {
    if let Ok(index) = entry.parse::<u32>() {
        return (usize::try_from(index).ok()? < listed.len()).then_some(Pick::Index(index));
    }
    if entry.starts_with("MIG-") {
        return Some(Pick::Uuid(entry.to_owned()));
    }
    let starts_so = |uuid: &&String| entry.starts_with("GPU-") && uuid.starts_with(entry);
    listed.iter().find(starts_so).cloned().map(Pick::Uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: [&str; 4] = ["GPU-aa11", "GPU-aa22", "GPU-bb33", "GPU-cc44"];

    /// The choice in words.
    fn picked(cuda: Option<&str>, nvidia: Option<&str>, listed: &[&str]) -> String {
        let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
        let visible = VisibleDevices { cuda: cuda.map(str::to_owned), nvidia: nvidia.map(str::to_owned) };
        let words = visible.pick(&listed).into_iter().map(|pick| match pick {
            Pick::Index(index) => index.to_string(),
            Pick::Uuid(uuid) => uuid,
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn cuda_visible_devices_decides_and_keeps_its_order() {
        for (cuda, expected) in [
            ("2, 0", "2 0"),
            ("GPU-bb, 1", "GPU-bb33 1"),
            ("0,-1,1", "0"),
            ("1,9,0", "1"),
            ("", ""),
            ("NoDevFiles", ""),
            ("MIG-1234", "MIG-1234"),
            ("GPU-aa", "GPU-aa11"),
            ("GPU-dd", ""),
        ] {
            assert_eq!(picked(Some(cuda), Some("3"), &LISTED), expected, "{cuda}");
        }
    }

    #[test]
    fn without_it_nvidia_visible_devices_counts_unless_the_runtime_has_applied_it() {
        for (nvidia, listed, expected) in [
            (None, &LISTED[..], "0 1 2 3"),
            (Some("all"), &LISTED, "0 1 2 3"),
            (Some("void"), &LISTED, ""),
            (Some("none"), &LISTED, ""),
            (Some("1,3"), &LISTED, "1 3"),
            (Some("GPU-cc44"), &LISTED, "GPU-cc44"),
            // Index 3 of the machine is the only GPU of its container.
            (Some("3"), &LISTED[..1], "0"),
            (Some("GPU-bb33,GPU-cc44"), &LISTED[2..], "0 1"),
            (Some("all"), &[], ""),
        ] {
            assert_eq!(picked(None, nvidia, listed), expected, "{nvidia:?} of {listed:?}");
        }
    }
}
