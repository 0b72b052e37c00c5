//! The outcome of the fitness checks, for which slots wait.

use parking_lot::{Condvar, Mutex};

/// The outcome of the checks. Slots wait for it before they load.
#[derive(Debug, Default)]
pub(crate) struct Fitness {
    fit: Mutex<Option<bool>>,
    decided: Condvar,
}

impl Fitness {
    /// Waits for the checks, and returns whether all passed. The worker limits the wait: it kills a process that takes too
    /// long to load.
    pub(crate) fn wait(&self) -> bool {
        let mut fit = self.fit.lock();
        self.decided.wait_while(&mut fit, |fit| fit.is_none());
        *fit == Some(true)
    }

    pub(crate) fn decide(&self, fit: bool) {
        *self.fit.lock() = Some(fit);
        self.decided.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_wait_for_the_outcome() {
        let fitness = Fitness::default();
        std::thread::scope(|scope| {
            let slot = scope.spawn(|| fitness.wait());
            fitness.decide(true);
            assert!(slot.join().unwrap());
        });
    }
}
