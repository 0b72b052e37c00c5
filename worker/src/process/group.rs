//! The process group of one handler process, and the only place that sends signals to it.

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

/// A handler process and everything it started. The leader's pid is also the group's id, and it is kept only as long as
/// the leader has not been reaped: afterwards the number may belong to somebody else.
#[derive(Debug, Default)]
pub(super) struct Group(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    leader: Option<Pid>,
    kill_requested: bool,
}

impl Group {
    /// The leader runs. If a kill was requested before the operating system had started it, the kill happens now.
    pub(super) fn started(&self, leader: Pid) {
        let mut state = self.0.lock();
        state.leader = Some(leader);
        if state.kill_requested {
            sigkill(leader);
        }
    }

    /// SIGKILL to every member. Remembered, so that the exit is not taken for a crash or for the kernel's kill.
    pub(super) fn kill(&self) {
        let mut state = self.0.lock();
        state.kill_requested = true;
        if let Some(leader) = state.leader {
            sigkill(leader);
        }
    }

    /// SIGKILL to the members that outlived their leader. Does not count as a kill of the leader.
    pub(super) fn kill_leftovers(&self) {
        if let Some(leader) = self.0.lock().leader {
            sigkill(leader);
        }
    }

    /// The leader is about to be reaped: from here on the group's id must not be used.
    pub(super) fn forget(&self) {
        self.0.lock().leader = None;
    }

    /// The leader, as long as it has not been reaped.
    pub(super) fn leader(&self) -> Option<Pid> {
        self.0.lock().leader
    }

    /// Whether this worker has asked for the kill.
    pub(super) fn kill_requested(&self) -> bool {
        self.0.lock().kill_requested
    }
}

fn sigkill(leader: Pid) {
    match kill_process_group(leader, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => tracing::warn!(pid = leader.as_raw_nonzero().get(), %error, "Cannot kill a handler process."),
    }
}
