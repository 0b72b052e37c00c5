//! A value that must not be seen.

use std::fmt;

/// A credential. It shows itself only to the code that asks with [`Secret::expose`]; every other print says `set` or `not set`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `value`, without the white space that files and shells put around it.
    pub fn new(value: &str) -> Self {
        Self(value.trim().to_owned())
    }

    /// The value itself, for the header it belongs into.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// There is no value.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "not set" } else { "set" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_print_shows_the_value() {
        let secret = Secret::new(" hunter2\n");
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "set Secret(set) Secret(set)");
        assert_eq!(Secret::new(" ").to_string(), "not set");
    }
}
