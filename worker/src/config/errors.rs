//! All mistakes in a configuration.

use std::fmt;

/// Exit status of a program that cannot start because of its arguments or settings (`EX_USAGE` of sysexits).
pub const EXIT_CONFIG: u8 = 64;

/// All mistakes, one line each, with the fix in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    pub(super) fn new(problems: Vec<String>) -> Self {
        Self(problems)
    }

    /// One line per mistake.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        for problem in &self.0 {
            write!(f, "\n  - {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
