//! Limits of jobs by HTTP request.

use std::time::Duration;

use crate::base::limits;

limits! {
    "direct";
    /// A poll of the worker is held for this long. The worker polls again at once.
    pub(super) const POLL_TIMEOUT: Duration = Duration::from_secs(30);
    /// Messages that may wait for a caller who reads slowly; the next one waits for the caller.
    pub(super) const MAX_UNREAD_MESSAGES: usize = 16;
    /// A caller who reads none of them for this long counts as gone, and the job is stopped.
    pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);
    /// Bytes of all request bodies together, from the first byte read until the job ends.
    pub(super) const MAX_BODIES: usize = 512 * 1024 * 1024;
    /// Largest request body in bytes, as on RunPod's load-balancing endpoints.
    pub(super) const MAX_BODY: usize = 30 * 1024 * 1024;
}
