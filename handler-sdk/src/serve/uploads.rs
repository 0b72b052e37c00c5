//! The jobs that have left their model, and whose output is still on its way to the bucket.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How many there are.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    pending: Mutex<usize>,
    changed: Condvar,
}

/// One of them; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Upload(Arc<Uploads>);

impl Uploads {
    pub(crate) fn begin(self: &Arc<Self>) -> Upload {
        *self.pending.lock() += 1;
        Upload(Arc::clone(self))
    }

    /// Waits until there is none. Each ends with its job at the latest.
    pub(crate) fn wait(&self) {
        self.changed.wait_while(&mut self.pending.lock(), |pending| *pending > 0);
    }

    /// As [`wait`](Self::wait), but not for longer than this.
    pub(crate) fn wait_for(&self, limit: Duration) {
        self.changed.wait_while_for(&mut self.pending.lock(), |pending| *pending > 0, limit);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        *self.0.pending.lock() -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_last_upload_or_at_its_limit() {
        let uploads = Arc::<Uploads>::default();
        uploads.wait();
        let (first, second) = (uploads.begin(), uploads.begin());
        uploads.wait_for(Duration::from_millis(10));
        assert_eq!(*uploads.pending.lock(), 2);
        std::thread::spawn(move || drop((first, second)));
        uploads.wait();
        assert_eq!(*uploads.pending.lock(), 0);
    }
}
