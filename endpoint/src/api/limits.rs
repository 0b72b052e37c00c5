//! The limits of the API. What an operator can set is a flag; everything in here is fixed.

use std::time::Duration;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Bytes of a `/run` body. The platform's limit.
pub(crate) const RUN_BODY: usize = 10 * MIB;
/// Bytes of a `/runsync` body and of a request to an OpenAI route. The platform's limit.
pub(crate) const RUNSYNC_BODY: usize = 20 * MIB;
/// Bytes of a GraphQL request: the largest official query has 2 KiB, an introspection query about 4.
pub(crate) const GRAPHQL_BODY: usize = 64 * KIB;
/// Time for a request body to arrive.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(300);
/// Bytes that are read and dropped after a body has exceeded its limit, so that the sender reads the refusal instead of a reset.
pub(crate) const DISCARDED_BODY: usize = 256 * MIB;
/// Bytes of all header names and values of a request.
pub(crate) const HEADERS: usize = 64 * KIB;

/// Life of the record of a finished `/run` job. The platform's value, as the next one.
pub(crate) const RUN_RETENTION: Duration = Duration::from_secs(30 * 60);
/// Life of the record of a finished `/runsync` job.
pub(crate) const RUNSYNC_RETENTION: Duration = Duration::from_secs(5 * 60);
/// Smallest and largest `wait` of a held request. The platform's values.
pub(crate) const MIN_WAIT: Duration = Duration::from_secs(1);
/// See [`MIN_WAIT`].
pub(crate) const WAIT: Duration = Duration::from_secs(300);
/// Bytes from which on an answer is compressed for a client that asks for that. Smaller ones are not worth the time.
pub(crate) const COMPRESSED_FROM: u16 = 16 << 10;
/// Bytes of a compressed request that are decompressed in one step.
pub(crate) const UNPACKED_AT_ONCE: usize = 16 * KIB;
/// Jobs in one `/requests` reply.
pub(crate) const LISTED_JOBS: usize = 1000;
/// Entries in one page of a list, if the client names no number, and at most.
pub(crate) const PAGE: usize = 50;
pub(crate) const MAX_PAGE: usize = 1000;
/// Bytes of a request that creates or extends a batch. The platform's limit.
pub(crate) const BATCH_BODY: usize = 10 * MIB;
/// Characters of a batch's name.
pub(crate) const BATCH_NAME: usize = 256;
/// Characters of an `Idempotency-Key`.
pub(crate) const IDEMPOTENCY_KEY: usize = 255;
/// Bytes of a job's `webhook`.
pub(crate) const WEBHOOK_URL: usize = 8 * KIB;

/// Largest `batch_size` of a poll: larger ones get this many jobs.
pub(crate) const BATCH: usize = 1000;
/// Bytes that are kept of a job's error. With a data file it stays in memory too.
pub(crate) const ERROR: usize = MIB;
/// Bytes of a job's `cost`: two numbers and their names. A larger one is dropped.
pub(crate) const COST: usize = 4 * KIB;

/// Characters of an id in a path.
pub(crate) const ID: usize = 128;
/// Bytes of a list of jobs that a worker hands back.
pub(crate) const HAND_BACK_BODY: usize = MIB;

/// Keys in one key file.
pub(crate) const KEYS: usize = 10_000;

/// Every limit with its name, for `--check-config`.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let time = |time| humantime::format_duration(time).to_string();
    vec![
        ("run-body", bytes(RUN_BODY)),
        ("runsync-body", bytes(RUNSYNC_BODY)),
        ("graphql-body", bytes(GRAPHQL_BODY)),
        ("body-time", time(BODY_TIME)),
        ("request-headers", bytes(HEADERS)),
        ("run-retention", time(RUN_RETENTION)),
        ("runsync-retention", time(RUNSYNC_RETENTION)),
        ("min-wait", time(MIN_WAIT)),
        ("wait", time(WAIT)),
        ("compressed-from", bytes(usize::from(COMPRESSED_FROM))),
        ("listed-jobs", LISTED_JOBS.to_string()),
        ("batch-body", bytes(BATCH_BODY)),
        ("batch-name", BATCH_NAME.to_string()),
        ("page", MAX_PAGE.to_string()),
        ("idempotency-key", IDEMPOTENCY_KEY.to_string()),
        ("webhook-url", bytes(WEBHOOK_URL)),
        ("batch-size", BATCH.to_string()),
        ("error", bytes(ERROR)),
        ("cost", bytes(COST)),
        ("id-length", ID.to_string()),
        ("hand-back-body", bytes(HAND_BACK_BODY)),
        ("keys-in-a-file", KEYS.to_string()),
    ]
}

/// A number of bytes in the largest unit that shows it without a fraction.
pub(crate) fn bytes(bytes: usize) -> String {
    let (unit, name) = match bytes {
        0 => (1, "bytes"),
        _ if bytes.is_multiple_of(1 << 30) => (1 << 30, "GiB"),
        _ if bytes.is_multiple_of(MIB) => (MIB, "MiB"),
        _ if bytes.is_multiple_of(KIB) => (KIB, "KiB"),
        _ => (1, "bytes"),
    };
    format!("{} {name}", bytes / unit)
}
