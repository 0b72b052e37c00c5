//! The effective values of all settings, and where each comes from.

use std::fmt::{self, Write as _};

/// One setting or limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) value: String,
    /// The flag or variable, or `default`, or `fixed` for a limit that cannot be set.
    pub(super) origin: String,
    /// Whether the value differs from the default.
    pub(super) changed: bool,
}

/// The effective values, in the order in which they were read. Secrets are shown as `set` or `not set`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description(Vec<Line>);

impl Description {
    pub(super) fn push(&mut self, line: Line) {
        self.0.push(line);
    }

    /// A description of limits that cannot be set, from their names and values.
    pub(crate) fn of_fixed(limits: impl IntoIterator<Item = (String, String)>) -> Self {
        let line = |(name, value)| Line { name, value, origin: "fixed".to_owned(), changed: false };
        Self(limits.into_iter().map(line).collect())
    }

    pub(super) fn origin(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|line| line.name == name).map(|line| line.origin.as_str())
    }

    /// The values that differ from the default, one line each.
    pub fn changes(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter(|line| line.changed).map(|line| line.text(0))
    }

    /// All values, one line each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let width = self.0.iter().map(|line| line.name.len()).max().unwrap_or_default();
        self.0.iter().map(move |line| line.text(width))
    }
}

impl Line {
    fn text(&self, width: usize) -> String {
        let Self { name, value, origin, .. } = self;
        format!("{name:width$} = {value} ({origin})")
    }
}

/// All values, one line each.
impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}
