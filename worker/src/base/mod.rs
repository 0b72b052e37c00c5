//! The ground floor: what every other part of the worker may use, and what uses none of them.

mod client;
mod excerpt;
mod failure_state;
mod folder_lock;
mod id;
mod identity;
mod limits;
mod retry;
mod secret;
pub mod tls;
pub mod url;

use std::time::Duration;

pub use client::{ClientError, http_client, request_error_text};
pub(crate) use excerpt::excerpt;
pub use failure_state::FailureState;
pub use folder_lock::{FolderLock, LockError};
pub use id::{IdError, check_id};
pub use identity::Identity;
pub(crate) use limits::limits;
pub use limits::{FixedLimit, LimitValue};
pub use retry::{Retry, retry_after};
pub use secret::Secret;
pub use url::UrlTemplate;

limits! {
    "base";
    /// Longest id of a job or worker in bytes. RunPod's have about 40.
    pub const MAX_ID_LEN: usize = 256;
    /// A host that does not accept a connection within this time counts as unreachable. It is short because the kernel repeats
    /// an unanswered SYN after 1, 3 and 7 seconds: a host that is back is noticed sooner by a new try.
    pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
    /// Connections that were idle for longer are not used again: the platform's proxies close theirs without notice.
    pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
    /// A connection without traffic is probed after this time, so that a poll does not wait on a dead one.
    pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
    /// Time between the probes of an idle connection.
    pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
    /// Probes without an answer after which a connection is dead.
    pub(crate) const KEEPALIVE_RETRIES: u32 = 5;
    /// Pause between two tries to lock a folder.
    pub(crate) const LOCK_RETRY_PAUSE: Duration = Duration::from_millis(50);
    /// A longer `Retry-After` is cut to this: a server with a wrong clock must not stop the worker for a day.
    pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
}

/// Version of this worker. It is sent as `runpod_version` in heartbeats and errors.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
