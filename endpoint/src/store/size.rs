//! The account of what is kept, against which the bounds are checked.

use std::ops::{AddAssign, SubAssign};

/// Bytes of what clients and workers have sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// All of it.
    pub(crate) bytes: usize,
    /// What is in memory.
    pub(crate) memory: usize,
    /// Unread stream items, which are in memory.
    pub(crate) streamed: usize,
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.memory += other.memory;
        self.streamed += other.streamed;
    }
}

impl SubAssign for Size {
    fn sub_assign(&mut self, other: Self) {
        self.bytes -= other.bytes;
        self.memory -= other.memory;
        self.streamed -= other.streamed;
    }
}
