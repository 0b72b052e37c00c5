//! Limits of the worker's own HTTP server.

use std::time::Duration;

use crate::base::limits;

limits! {
    "http";
    /// Longest time for requests in flight when the server ends.
    pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
    /// Connections of the worker's own port, and of the port for health checks of `serve`, unless set otherwise.
    pub(crate) const MAX_CONNECTIONS: usize = 64;
    /// Connections of the port for jobs beyond the jobs that may wait or run, for health checks and rejections.
    pub(crate) const SPARE_CONNECTIONS: usize = 64;
    /// A dispatcher without a beat for this long counts as stuck. It beats every two seconds when nothing happens.
    pub(super) const STUCK_AFTER: Duration = Duration::from_secs(20);
}
