//! Limits of the heartbeat and of the watch over the dispatcher.

use std::time::Duration;

use crate::base::limits;

limits! {
    "heartbeat";
    /// Longest list of job ids in bytes, as in RunPod's SDK.
    pub(super) const MAX_IDS_LEN: usize = 65_535;
    /// Longest URL in bytes that the HTTP library sends.
    pub(super) const MAX_URL_LEN: usize = 65_000;
    /// Longest name and version of the handler in a heartbeat, in characters.
    pub(super) const MAX_MODEL: usize = 64;
    /// Shortest interval between two heartbeats that a queue may ask for.
    pub(super) const MIN_INTERVAL: Duration = Duration::from_secs(1);
    /// Further tries after 429 and 5xx, as in RunPod's SDK.
    pub(super) const RETRIES: usize = 3;
    /// First pause between them.
    pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);
    /// Longest pause between them.
    pub(super) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(4);
    /// The unhealthy report is given up after this time, as in RunPod's SDK: the worker is about to exit.
    pub(super) const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
    /// A report waits at most this long for a ping that is in flight.
    pub(super) const TURN_TIMEOUT: Duration = Duration::from_millis(500);
    /// Longest reason in an unhealthy report, in characters.
    pub(super) const MAX_REASON: usize = 256;
    /// Time between two looks at the dispatcher.
    pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(2);
    /// Looks in a row without a beat after which the dispatcher counts as stuck. Looks are counted, not seconds: a process
    /// that was suspended has missed time but no look.
    pub(super) const MAX_MISSED_BEATS: u32 = 30;
    /// An abort waits this long for the log, which is written by another thread.
    pub(super) const LOG_GRACE: Duration = Duration::from_millis(200);
}
