//! Results that the platform would refuse although this endpoint takes them.

use super::limits::{RUN_BODY, RUNSYNC_BODY};

/// How the ids of `/runsync` jobs begin, here as on the platform.
const RUNSYNC_ID: &str = "sync-";

/// The largest result that the platform takes for `job`, if `bytes` are more. The limits are those of requests, by its guide
/// (<https://docs.runpod.io/serverless/workers/handler-functions>).
fn exceeded(job: &str, bytes: usize) -> Option<usize> {
    let limit = if job.starts_with(RUNSYNC_ID) { RUNSYNC_BODY } else { RUN_BODY };
    (bytes > limit).then_some(limit)
}

/// Logs a warning if the platform would refuse a result of this size. The result is kept here.
pub(crate) fn warn_if_refused_by_platform(job: &str, bytes: usize) {
    if let Some(limit) = exceeded(job, bytes) {
        tracing::warn!(
            job,
            bytes,
            limit,
            "This result is larger than RunPod accepts: there it would be refused, and the job would fail. Upload it to a bucket and \
             return the link, or stream it."
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_from_the_way_the_job_was_submitted() {
        assert_eq!(exceeded("a-u1", RUN_BODY), None);
        assert_eq!(exceeded("a-u1", RUN_BODY + 1), Some(RUN_BODY));
        assert_eq!(exceeded("sync-a-u1", RUN_BODY + 1), None);
        assert_eq!(exceeded("sync-a-u1", RUNSYNC_BODY + 1), Some(RUNSYNC_BODY));
    }
}
