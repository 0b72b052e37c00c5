//! The number of files and sockets that the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for every limit of these programs. Higher soft limits slow down programs that close all descriptors one by one.
const WANTED: u64 = 65_536;

/// Descriptors that a server leaves to everything else at least: files, child processes, outgoing connections.
const RESERVED: u64 = 64;

/// Raises the soft limit of open files (`ulimit -n`) up to the hard limit, at most to 65,536, and returns the limit in force.
///
/// Many systems start programs with a soft limit of 1024 or less and a hard limit far above.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(WANTED).min(WANTED);
    match current {
        Some(current) if current < wanted => {
            let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
            if raised.is_ok() { wanted } else { current }
        }
        current => current.unwrap_or(u64::MAX),
    }
}

/// How many of `wanted` connections fit into `descriptors` open files, if a quarter of them (64 at least) is left to everything else.
#[must_use]
pub fn connections_within(wanted: usize, descriptors: u64) -> usize {
    let room = descriptors.saturating_sub((descriptors / 4).max(RESERVED)).max(1);
    usize::try_from(room).unwrap_or(usize::MAX).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_everything_else() {
        for (wanted, descriptors, connections) in
            [(4096, 65_536, 4096), (4096, 1024, 768), (4096, 128, 64), (4096, 10, 1), (10, 1024, 10)]
        {
            assert_eq!(connections_within(wanted, descriptors), connections, "{wanted} of {descriptors}");
        }
    }

    #[test]
    fn the_limit_is_never_lowered() {
        let before = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let raised = raise_descriptor_limit();
        assert!(raised >= before, "{raised} < {before}");
        assert_eq!(raise_descriptor_limit(), raised);
    }
}
