//! Times and bounds of the overflow.

use std::time::Duration;

/// Between two looks for jobs that have waited for too long.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the far endpoint holds a request for stream items. The least that RunPod accepts.
pub(super) const STREAM_HOLD: Duration = Duration::from_secs(1);
/// Between two requests for the stream of one job, and for its progress: RunPod limits requests.
pub(super) const STREAM_INTERVAL: Duration = Duration::from_millis(250);
pub(super) const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the far endpoint may be silent in the middle of a request: as long as it may be silent about a job, within these bounds. It
/// is silent while it holds a request for stream items.
pub(super) const SHORTEST_SILENCE: Duration = Duration::from_secs(3);
pub(super) const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// Bytes of a request for which it may be silent for one more second: they must arrive first.
pub(super) const BYTES_A_SECOND: usize = 1 << 20;
/// One request, with a large input or result.
pub(super) const TRANSFER_TIME: Duration = Duration::from_secs(300);
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Before a request is repeated that has failed, and before the store is asked again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long the far endpoint may be silent when it is asked for the last time about a job that counts as lost otherwise.
pub(super) const LAST_STATUS_TIME: Duration = Duration::from_secs(2);
/// No job is sent for this long after the far endpoint has failed; doubled with each failure in a row, up to the second.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A job that was lost this often after it had begun is not sent again.
pub(super) const MAX_RETURNS: u32 = 3;
/// Jobs remembered because they were lost or refused; then all are forgotten.
pub(super) const REMEMBERED_RETURNS: usize = 10_000;
/// How long cancelling a job at the far endpoint is tried. After a day RunPod has forgotten it, unless it has a longer `ttl`.
pub(super) const CANCEL_TIME: Duration = Duration::from_secs(24 * 3600);
/// Before cancelling a job is tried again; doubled with each failure, up to the second.
pub(super) const FIRST_CANCEL_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_CANCEL_PAUSE: Duration = Duration::from_secs(60);
/// Requests at once that cancel jobs.
pub(super) const CANCELS: usize = 50;
/// Between two questions whether jobs are held back.
pub(super) const HELD_BACK_INTERVAL: Duration = Duration::from_secs(5);
/// How much longer than its timeout a job may run before it has been stopped there.
pub(super) const STOP_TIME: Duration = Duration::from_secs(30);
/// How long a shutdown waits for the jobs to be cancelled or left in order.
pub(super) const SHUTDOWN_TIME: Duration = Duration::from_secs(5);
/// How long cancelling a job may take then.
pub(super) const LAST_CANCEL_TIME: Duration = Duration::from_secs(3);
/// Bytes of a reply beside its output.
pub(super) const REPLY_HEAD: usize = 4 << 20;
/// Characters of a refusal that are shown.
pub(super) const REFUSAL: usize = 200;

/// The limits with their names, for `--check-config`.
pub(crate) fn describe() -> [(&'static str, String); 10] {
    let time = |time| humantime::format_duration(time).to_string();
    [
        ("overflow-look-interval", time(LOOK_INTERVAL)),
        ("overflow-stream-interval", time(STREAM_INTERVAL)),
        ("overflow-status-interval", time(STATUS_INTERVAL)),
        ("overflow-longest-silence", time(LONGEST_SILENCE)),
        ("overflow-transfer-time", time(TRANSFER_TIME)),
        ("overflow-longest-pause", time(LONGEST_PAUSE)),
        ("overflow-returns", MAX_RETURNS.to_string()),
        ("overflow-cancel-time", time(CANCEL_TIME)),
        ("overflow-stop-time", time(STOP_TIME)),
        ("overflow-shutdown-time", time(SHUTDOWN_TIME)),
    ]
}
