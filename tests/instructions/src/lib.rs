//! A bar on the work of the hot paths: instructions, which are the same on a busy and on an idle machine, against a committed
//! baseline. `make bench-instructions` measures and compares; `make accept-instructions` makes the figures the new baseline.

mod baseline;
mod callgrind;
mod verdict;

pub use baseline::Baseline;
pub use callgrind::{RUN, measure, version};
pub use verdict::{Flat, TOLERANCE, Verdict, compare};
