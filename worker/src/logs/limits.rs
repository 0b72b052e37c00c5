//! Limits of the log.

use std::time::Duration;

use crate::base::limits;

limits! {
    "logs";
    /// Longest text in a log line, in characters: the platform cuts longer messages. The middle is left out.
    pub(super) const MAX_TEXT_LEN: usize = 4096;
    /// Lines that may wait for the writer of stdout.
    pub(super) const WRITER_QUEUE: usize = runpod_log_line::WRITER_QUEUE;
    /// How long the end of the program waits for stdout.
    pub(super) const WRITER_FLUSH_TIMEOUT: Duration = runpod_log_line::WRITER_FLUSH_TIMEOUT;
    /// How often lines over the rate limit are reported.
    pub(super) const EXCESS_INTERVAL: Duration = runpod_log_line::NOTE_INTERVAL;
    /// A batch for the log sink is sent when it has this many bytes.
    pub(super) const SINK_BATCH: usize = 256 * 1024;
    /// A batch for the log sink is sent when its first line has waited this long.
    pub(super) const SINK_LINGER: Duration = Duration::from_secs(1);
    /// Limit of one request to the log sink.
    pub(super) const SINK_POST_TIMEOUT: Duration = Duration::from_secs(10);
    /// First pause before a batch is posted again.
    pub(super) const SINK_PAUSE: Duration = Duration::from_millis(500);
    /// Longest pause before a batch is posted again.
    pub(super) const SINK_PAUSE_MAX: Duration = Duration::from_secs(30);
    /// How long the end of the program waits for the log sink.
    pub(super) const SINK_FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
    /// A value with fewer bytes is not masked: ordinary words would disappear from the log.
    pub(super) const MIN_SECRET_LEN: usize = 8;
    /// A secret is masked up to this many bytes.
    pub(super) const MAX_SECRET_LEN: usize = 64 * 1024;
    /// Secrets of jobs that are remembered, each spelling counted.
    pub(super) const JOB_SECRETS: usize = 4096;
    /// Bytes of all secrets of jobs that are remembered.
    pub(super) const JOB_SECRET_BYTES: usize = 1024 * 1024;
    /// New secrets after which the search for all of them is built again.
    pub(super) const RECENT_SECRETS: usize = 128;
}
