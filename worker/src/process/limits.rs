//! Limits of handler processes.

use std::time::Duration;

use crate::base::limits;

limits! {
    "process";
    /// How long the socket and the pipes of an exited process may stay open before its descendants are killed, and again how long they
    /// may stay open after that. Only a descendant can hold them.
    pub(super) const END_OF_FILE_TIMEOUT: Duration = Duration::from_secs(1);
    /// Messages about the process as a whole that may wait for it, such as pings. A process that does not read them does not
    /// answer pings either, and is killed for that long before this many wait.
    pub(super) const SEND_QUEUE: usize = 256;
    /// Messages that may wait for each of its slots, besides one acknowledgement for each chunk of the window: a job, a request
    /// to stop it, and a probe. The next job of a slot is sent only after the result of the last one.
    pub(super) const SEND_QUEUE_PER_SLOT: usize = 4;
    /// Messages that may wait for any process, whatever its slots. The memory for them is taken when they wait.
    pub(super) const SEND_QUEUE_MAX: usize = 1 << 22;
    /// Messages that are written with one system call.
    pub(super) const FRAMES_AT_ONCE: usize = 32;
    /// Lines of stderr kept for the report about the exit.
    pub(super) const LAST_LINES: usize = 20;
    /// Longest line of output that is logged, in bytes; the rest of it is counted.
    pub(super) const MAX_LINE_LEN: usize = 4096;
    /// Period in which lines of output are counted for the rate limit.
    pub(super) const RATE_WINDOW: Duration = Duration::from_secs(1);
    /// Lines that come this soon after the end of a job still belong to it, if no other job runs: its result takes another way.
    pub(super) const LATE_LINES: Duration = Duration::from_secs(1);
    /// Depth to which schema and input are searched for secrets: a schema may refer to itself.
    pub(super) const SCHEMA_DEPTH: usize = 64;
    /// How long descendants of a handler process may take to exit after they were killed; the next process starts without waiting
    /// longer.
    pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(3);
    /// Pause between two looks for descendants.
    pub(super) const KILL_PAUSE: Duration = Duration::from_millis(5);
    /// Orphans that exit by themselves are reaped at most this often.
    pub(super) const REAP_INTERVAL: Duration = Duration::from_secs(1);
    /// How long the next start of a handler process waits for the temporary folder of the last one to be removed.
    pub(super) const REMOVE_TIMEOUT: Duration = Duration::from_secs(3);
    /// How often a worker that starts makes a folder for temporary files that another one removes at once.
    pub(super) const RUN_FOLDER_ATTEMPTS: usize = 10;
    /// How often the state of a line is logged that a handler overwrites, such as a progress bar.
    pub(super) const STATE_INTERVAL: Duration = Duration::from_secs(1);
}
