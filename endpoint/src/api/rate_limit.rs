//! The platform's rate limits, to test how a client copes with them. Off by default.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(10);

/// Number of windows beyond which those without recent requests are removed.
const MAX_WINDOWS: usize = 10_000;

/// The number of requests in 10 s and at the same time, from RunPod's documentation ("rate limits"). Routes that it does not list
/// have no limit.
fn limits(operation: &str) -> Option<(u32, u32)> {
    Some(match operation {
        "run" => (1000, 200),
        "runsync" | "status" | "status-sync" | "stream" | "openai" => (2000, 400),
        "cancel" => (100, 20),
        "purge-queue" => (2, u32::MAX),
        "requests" => (10, 2),
        _ => return None,
    })
}

/// Requests are counted by key, endpoint and operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) key: usize,
    pub(crate) endpoint: String,
    pub(crate) operation: String,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    requests: u32,
    open: u32,
}

/// Counts requests and refuses the excess.
#[derive(Debug, Clone, Default)]
pub struct RateLimits {
    windows: Arc<Mutex<HashMap<Caller, Window>>>,
}

/// A request that is being answered.
pub(crate) struct Open<'a> {
    limits: &'a RateLimits,
    caller: Caller,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.limits.with(|windows| {
            if let Some(window) = windows.get_mut(&self.caller) {
                window.open = window.open.saturating_sub(1);
            }
        });
    }
}

impl RateLimits {
    fn with<T>(&self, operation: impl FnOnce(&mut HashMap<Caller, Window>) -> T) -> T {
        operation(&mut self.windows.lock())
    }

    /// Counts one request. The error is the time after which to try again.
    pub(crate) fn enter(&self, caller: Caller) -> Result<Option<Open<'_>>, Duration> {
        let Some((max_requests, max_open)) = limits(&caller.operation) else { return Ok(None) };
        let now = Instant::now();
        self.with(|windows| {
            if windows.len() >= MAX_WINDOWS {
                windows.retain(|_, window| window.open > 0 || now < window.start + WINDOW);
            }
            let fresh = || Window { start: now, requests: 0, open: 0 };
            let window = windows.entry(caller.clone()).or_insert_with(fresh);
            if now >= window.start + WINDOW {
                (window.start, window.requests) = (now, 0);
            }
            if window.requests >= max_requests {
                return Err(window.start + WINDOW - now);
            }
            if window.open >= max_open {
                return Err(Duration::from_secs(1));
            }
            window.requests += 1;
            window.open += 1;
            Ok(())
        })?;
        Ok(Some(Open { limits: self, caller }))
    }
}
