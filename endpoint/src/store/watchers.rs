//! Wakes the requests that wait for one particular job or worker, and no others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};

#[derive(Debug, Default)]
pub(crate) struct Watchers {
    by_key: Mutex<HashMap<Arc<str>, Arc<Notify>>>,
}

impl Watchers {
    /// Wakes every request that waits for `key`.
    pub(crate) fn wake(&self, key: &str) {
        if let Some(notify) = self.by_key.lock().get(key) {
            notify.notify_waiters();
        }
    }

    /// Runs `check` now and after each wake-up until it returns something; `None` when time is up.
    pub(crate) async fn wait<T>(
        &self,
        key: &str,
        deadline: Instant,
        mut check: impl FnMut() -> Option<T> + Send,
    ) -> Option<T> {
        if let Some(found) = check() {
            return Some(found);
        }
        let watch = self.watch(key);
        loop {
            let mut woken = std::pin::pin!(watch.notify.notified());
            // Registers before the check, so that a change between check and wait is not missed.
            woken.as_mut().enable();
            if let Some(found) = check() {
                return Some(found);
            }
            timeout_at(deadline, woken).await.ok()?;
        }
    }

    /// The keys that requests wait for.
    pub(crate) fn keys(&self) -> Vec<Arc<str>> {
        self.by_key.lock().keys().cloned().collect()
    }

    /// Wakes every request.
    pub(crate) fn wake_all(&self) {
        self.by_key.lock().values().for_each(|notify| notify.notify_waiters());
    }

    /// A place among those that wait for `key`, for checks that wait themselves.
    pub(crate) fn watch(&self, key: &str) -> Watch<'_> {
        let key = Arc::from(key);
        let notify = Arc::clone(self.by_key.lock().entry(Arc::clone(&key)).or_default());
        Watch { watchers: self, key, notify }
    }
}

pub(crate) struct Watch<'a> {
    watchers: &'a Watchers,
    key: Arc<str>,
    notify: Arc<Notify>,
}

impl Watch<'_> {
    /// The next wake-up. Enable it before the check.
    pub(crate) fn notified(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut by_key = self.watchers.by_key.lock();
        // Two owners are left: the map and this watch.
        if Arc::strong_count(&self.notify) <= 2 {
            by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_with_its_last_waiter() {
        let watchers = Watchers::default();
        let deadline = Instant::now() + Duration::from_secs(1);
        let (first, second) =
            tokio::join!(watchers.wait("job", deadline, || None::<()>), watchers.wait("job", deadline, || None::<()>),);
        assert_eq!((first, second), (None, None));
        assert!(watchers.by_key.lock().is_empty());
    }
}
