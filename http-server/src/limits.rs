//! The limits of one server.

use std::time::Duration;

/// What one server allows its clients.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Open connections. Each may hold a header of `max_header_bytes` and one descriptor.
    pub max_connections: usize,
    /// Time from the first byte of a request to the end of its header, and from a new connection to its first byte. Honest clients
    /// send a header at once.
    pub header_timeout: Duration,
    /// How long a connection may wait for its next request. Longer than the 90 s after which HTTP libraries close idle connections, so
    /// that none sends a request on a connection that is being closed.
    pub idle_timeout: Duration,
    /// How long a request body may pause.
    pub body_timeout: Duration,
    /// Time in which the reader of a response must accept 32 KiB, or the rest.
    pub write_timeout: Duration,
    /// After how long without a byte the kernel asks whether the client is still there, WebSockets included. One that does not answer for
    /// as long again is gone.
    pub keepalive: Duration,
    /// Bytes of a request's header, checked while it is read.
    pub max_header_bytes: usize,
}

impl ServerLimits {
    /// Each limit with its name, for lists of settings.
    pub fn describe(&self) -> [(&'static str, String); 7] {
        let time = |time| humantime::format_duration(time).to_string();
        [
            ("connections", self.max_connections.to_string()),
            ("header-timeout", time(self.header_timeout)),
            ("idle-timeout-of-connections", time(self.idle_timeout)),
            ("body-timeout", time(self.body_timeout)),
            ("write-timeout", time(self.write_timeout)),
            ("keepalive", time(self.keepalive)),
            ("header-bytes", self.max_header_bytes.to_string()),
        ]
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            header_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
            max_header_bytes: 64 << 10,
        }
    }
}
