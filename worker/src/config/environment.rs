//! Environment variables.

use std::collections::BTreeMap;

/// A set of environment variables. Tests use their own.
pub trait Environment {
    /// The value of a variable, without white space around it. An empty one counts as absent; see [`Environment::is_set`].
    fn get(&self, name: &str) -> Option<String> {
        self.raw(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Whether the variable exists, even if it is empty.
    fn is_set(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The value, unchanged.
    fn raw(&self, name: &str) -> Option<String>;

    /// Names of all variables.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process. Values that are not UTF-8 get replacement characters, and then fail validation.
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
