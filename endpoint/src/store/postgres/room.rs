//! How many connections a replica uses at once: fewer than it would where the server has no more for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::failure::Failure;

/// Connections of one replica, besides the one that listens. Operations wait for one another, not for connections.
pub(super) const MAX_CONNECTIONS: usize = 16;

/// All connections of one replica.
pub(super) const PER_REPLICA: usize = MAX_CONNECTIONS + 1;

/// How long a new connection may take, and how long a request waits for a free one.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Places for those who need a connection. The pool tries to open one more for each who finds none; where the server refuses that, they
/// share those that there are.
pub(super) struct Room {
    places: Semaphore,
    lost: AtomicUsize,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { places: Semaphore::new(MAX_CONNECTIONS), lost: AtomicUsize::new(0) }
    }

    /// Waits for a place.
    pub(super) async fn place(&self) -> Result<SemaphorePermit<'_>, Failure> {
        match timeout(CONNECT_LIMIT, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Failure::Away("all connections are in use".into())),
        }
    }

    /// There is no connection for this place. One place always stays.
    pub(super) fn lose(&self, place: SemaphorePermit<'_>) {
        let one_more = |lost| Some(lost + 1).filter(|lost| *lost < MAX_CONNECTIONS);
        if self.lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
            place.forget();
        }
    }

    /// All places may be tried again.
    pub(super) fn regain(&self) {
        self.places.add_permits(self.lost.swap(0, Ordering::Relaxed));
    }
}
