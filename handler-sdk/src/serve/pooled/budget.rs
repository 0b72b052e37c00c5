//! The cost that jobs which run together may have now: less after running out of memory, then slowly more.

/// A cost limit that adapts to the memory of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CostBudget {
    max: u64,
    now: u64,
    /// How much the budget grows when jobs of a high cost have run together without an error.
    step: u64,
}

impl CostBudget {
    /// How many such runs it takes to grow back from the smallest budget.
    const STEPS: u64 = 64;

    pub(crate) fn new(max: u64) -> Self {
        Self { max, now: max, step: 1 }
    }

    /// The most that jobs may cost together now. A single job may cost more.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Jobs of this cost ran out of memory together.
    pub(crate) fn shrink(&mut self, cost: u64) {
        let before = self.now.min(cost);
        // Derived from what failed, because the maximum may be unlimited.
        self.step = (self.max.min(before) / Self::STEPS).max(1);
        self.now = (before / 2).max(1);
    }

    /// Jobs of this cost ran together without an error. A low cost proves nothing about a larger budget.
    pub(crate) fn grow(&mut self, cost: u64) {
        if self.now < self.max && cost >= self.now / 2 {
            self.now = self.now.saturating_add(self.step).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_halves_after_running_out_of_memory_and_grows_back_slowly() {
        let mut budget = CostBudget::new(6400);
        budget.shrink(6000);
        assert_eq!(budget.now(), 3000);
        budget.grow(100);
        assert_eq!(budget.now(), 3000, "a small batch proves nothing");
        budget.grow(3000);
        assert_eq!(budget.now(), 3093);
        (0..100).for_each(|_| budget.grow(6400));
        assert_eq!(budget.now(), 6400);
    }

    #[test]
    fn a_budget_never_reaches_zero() {
        let mut budget = CostBudget::new(2);
        (0..10).for_each(|_| budget.shrink(1));
        assert_eq!(budget.now(), 1);
    }
}
