//! Limits that cannot be set. Each part declares its own with [`limits!`] in its `limits.rs`; `--check-config` lists them all.

use std::time::Duration;

/// A limit that cannot be set.
#[derive(Clone, Copy, Debug)]
pub struct FixedLimit {
    /// The part of the worker that keeps it.
    pub part: &'static str,
    /// The name of the constant.
    pub name: &'static str,
    /// Returns the value as text, with its unit.
    pub value: fn() -> String,
}

/// A value that can be a limit.
pub trait LimitValue {
    /// The value as text, with its unit if it has one.
    fn as_text(&self) -> String;
}

impl LimitValue for Duration {
    fn as_text(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

macro_rules! numbers {
    ($($number:ty)+) => {
        $(impl LimitValue for $number {
            fn as_text(&self) -> String {
                self.to_string()
            }
        })+
    };
}
numbers!(u32 u64 usize);

/// Declares constants, and lists them in a constant `LIMITS` as the limits of one part.
macro_rules! limits {
    ($part:literal; $($(#[$meta:meta])+ $visibility:vis const $name:ident: $type:ty = $value:expr;)+) => {
        $($(#[$meta])+ $visibility const $name: $type = $value;)+

        /// Every limit of this part.
        pub(crate) const LIMITS: &[$crate::base::FixedLimit] = &[$($crate::base::FixedLimit {
            part: $part,
            name: stringify!($name),
            value: || $crate::base::LimitValue::as_text(&$name),
        }),+];
    };
}
pub(crate) use limits;
