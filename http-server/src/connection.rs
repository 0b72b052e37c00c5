//! The handle by which a request reaches its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The connection of a request: the extension `ConnectInfo<Connection>`.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    reset: Arc<AtomicBool>,
}

impl Connection {
    /// Resets the connection at the next write, before any of the response is sent.
    pub fn reset(&self) {
        self.reset.store(true, Ordering::Release);
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }
}
