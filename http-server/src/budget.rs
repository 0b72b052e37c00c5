//! A number of bytes that all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be held at once. Clones share them.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Shared { max, used: AtomicUsize::new(0) }))
    }

    /// An empty share of the budget.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

/// A share of the budget; dropping it returns its bytes.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    /// Takes more bytes, or none and returns false when the budget has not that many left.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let Shared { max, used } = &*self.budget.0;
        let within = |used: usize| used.checked_add(bytes).filter(|sum| sum <= max);
        let grown = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Returns all bytes to the budget.
    pub fn clear(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_from_one_budget_and_return_to_it() {
        let budget = Budget::new(10);
        let (mut one, mut two) = (budget.share(), budget.share());
        assert!(one.try_grow(6) && !two.try_grow(5) && two.try_grow(4));
        assert!(!one.try_grow(usize::MAX));
        drop(one);
        assert!(two.try_grow(6));
        assert_eq!(budget.used(), 10);
        drop(two);
        assert_eq!(budget.used(), 0);
    }
}
