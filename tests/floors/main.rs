//! Which module may import which: no circle of imports between files, and no import of a module on a higher floor.
//!
//! The floors are in `floors.txt`, which `ARCHITECTURE.md` quotes. A name that a module only passes on (`pub use`) counts as an
//! import of the file that defines it, so a facade costs nothing. A file may use what the parent of its folder defines: the two are
//! one module. Tests (`#[cfg(test)]`) may import what they like.

#![expect(clippy::panic, clippy::unwrap_used, reason = "what is not there fails the test")]

mod circles;
mod floors;
mod imports;
mod modules;
mod scan;
mod tests;
