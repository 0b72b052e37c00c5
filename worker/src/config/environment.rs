//! Where variables come from.

use std::collections::BTreeMap;

/// The environment, so that a test can bring its own.
pub trait Environment {
    /// The value of a variable. Empty counts as absent here; see [`Environment::is_set`].
    fn get(&self, name: &str) -> Option<String> {
        self.raw(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The variable exists, even if it is empty.
    fn is_set(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The value as it is.
    fn raw(&self, name: &str) -> Option<String>;

    /// Names of all variables.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process. What is not UTF-8 is read with replacement characters, and then fails validation.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn raw(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn raw(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}
