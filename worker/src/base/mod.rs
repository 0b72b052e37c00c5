//! The ground floor: what every other part of the worker may use, and what uses none of them.

mod client;
mod failure_state;
mod identity;
mod retry;
mod secret;
pub mod url;

pub use client::{ClientError, http_client, request_error_text};
pub use failure_state::FailureState;
pub use identity::Identity;
pub use retry::{RETRY_AFTER_MAX, Retry, retry_after};
pub use secret::Secret;
pub use url::UrlTemplate;

/// Version of this worker. It is sent as `runpod_version` in heartbeats and errors.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
