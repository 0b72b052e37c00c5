//! Limits of the requests to the queue.

use std::time::Duration;

use crate::base::limits;

limits! {
    "queue";
    /// A long poll is given up after this time without an answer, as in RunPod's SDK.
    pub(super) const POLL_TIMEOUT: Duration = Duration::from_secs(90);
    /// Longest time for the body of an answer that has begun.
    pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(120);
    /// Longest time for a post with a small body; one that is never answered is repeated after it.
    pub(super) const POST_TIMEOUT: Duration = Duration::from_secs(15);
    /// A post gets one second more for each of these many bytes.
    pub(super) const POST_BYTES_PER_SECOND: u64 = 100_000;
    /// Longest time for a post of any size, as in RunPod's SDK.
    pub(super) const POST_TIMEOUT_MAX: Duration = Duration::from_secs(600);
    /// The answer to a post is its status; its body is read for this long at most.
    pub(super) const POST_BODY_TIMEOUT: Duration = Duration::from_secs(5);
    /// Longest time for a progress post. The final result waits behind it, so it is short.
    pub(super) const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);
    /// Jobs of the largest size that one reply may hold; smaller ones may be more.
    pub(super) const MAX_LARGE_JOBS: usize = 16;
    /// Jobs beyond those asked for that one reply may bring. They wait for a slot; the queue keeps what is above.
    pub(super) const MAX_SURPLUS: usize = 100;
    /// Longest reply in bytes that is read when no job can be in it.
    pub(super) const MAX_SMALL_REPLY: usize = 1024 * 1024;
    /// Longest batch id in bytes that is logged.
    pub(super) const MAX_BATCH_ID_LEN: usize = 256;
    /// Longest `traceparent` in bytes that is passed on. Version 00 of W3C Trace Context has 55; later ones may be longer.
    pub(super) const MAX_TRACEPARENT_LEN: usize = 128;
    /// Time for one try to hand jobs back or to say goodbye.
    pub(super) const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(2);
    /// Time for all tries to hand the same jobs back.
    pub(super) const HAND_BACK_EFFORT: Duration = Duration::from_secs(3);
    /// Pause between two tries to hand jobs back.
    pub(super) const HAND_BACK_PAUSE: Duration = Duration::from_millis(250);
    /// Jobs in one request that hands them back.
    pub(super) const MAX_HAND_BACK: usize = 1000;
    /// Jobs that may wait to be handed back.
    pub(super) const MAX_WAITING_HAND_BACKS: usize = 4096;
    /// Shortest pause after the answer that another process uses this worker's id.
    pub(super) const CONFLICT_PAUSE: Duration = Duration::from_secs(3);
    /// Longest name of a tenant in characters; a longer one is cut.
    pub(super) const MAX_TENANT_LEN: usize = 64;
    /// Shortest pause after 429, as in RunPod's SDK.
    pub(super) const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(5);
    /// Shortest pause before a request that has failed is repeated.
    pub(super) const MIN_PAUSE: Duration = Duration::from_secs(1);
    /// While the queue is away, time between two tries of all parts of the worker together, beside the random part.
    pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);
    /// Longest random part of that time.
    pub(super) const PROBE_JITTER: Duration = Duration::from_millis(400);
    /// A poll that has not failed after this time may be held by the queue: then another part makes its try.
    pub(super) const HELD_POLL: Duration = Duration::from_millis(300);
    /// First pause after a poll that failed.
    pub(super) const ERROR_PAUSE: Duration = Duration::from_secs(1);
    /// Longest pause after a poll that failed.
    pub(super) const ERROR_PAUSE_MAX: Duration = Duration::from_secs(30);
    /// A poll that ends without a job in less time than this is a quick one: the queue should hold it until a job comes.
    pub(super) const QUICK_POLL: Duration = Duration::from_millis(50);
    /// After this many quick polls in a row, polling slows down.
    pub(super) const MAX_QUICK_POLLS: u32 = 5;
    /// First pause after quick polls.
    pub(super) const QUICK_PAUSE: Duration = Duration::from_millis(250);
    /// Longest pause after quick polls. It is short, because a job may come at any time.
    pub(super) const QUICK_PAUSE_MAX: Duration = Duration::from_secs(2);
    /// Polls that may wait for the one in flight. The dispatcher asks for one at a time.
    pub(super) const MAX_WAITING_POLLS: usize = 4;
    /// Pause after an answer without stops, as in RunPod's SDK, and first pause after a stop request that failed.
    pub(super) const STOP_PAUSE: Duration = Duration::from_secs(1);
    /// Longest pause after a stop request that failed. It is short, because a late stop costs GPU time.
    pub(super) const STOP_ERROR_PAUSE_MAX: Duration = Duration::from_secs(15);
}
