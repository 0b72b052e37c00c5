//! Several keys, from flags and files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::limits;
use crate::secret::{Secret, without_mark};

/// Why a key file is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the key file {}: {error}; check the path and its permissions", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// It has no key. Accepting it would leave the endpoint open by mistake.
    #[error("the key file {} has no key: write one key a line", .0.display())]
    Empty(PathBuf),
    /// Too long.
    #[error("the key file {} has more than {} keys: remove old ones", .0.display(), limits::KEYS)]
    TooMany(PathBuf),
}

/// The keys of one of the two APIs. An empty set accepts every caller.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Arc<[Secret]>);

impl KeySet {
    /// A set of keys.
    pub fn new(keys: impl IntoIterator<Item = Secret>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// `key` and the keys in `file`, one a line; empty lines and lines that start with `#` are ignored.
    ///
    /// # Errors
    /// When the file is unreadable or has no key.
    pub fn load(key: Option<&Secret>, file: Option<&Path>) -> Result<Self, KeyFileError> {
        let mut keys: Vec<_> = key.into_iter().cloned().collect();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| KeyFileError::Unreadable { path: path.to_owned(), error })?;
            let known = keys.len();
            let lines =
                without_mark(&text).lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            keys.extend(lines.map(Secret::from));
            if keys.len() == known {
                return Err(KeyFileError::Empty(path.to_owned()));
            }
            if keys.len() > limits::KEYS {
                return Err(KeyFileError::TooMany(path.to_owned()));
            }
        }
        Ok(Self::new(keys))
    }

    /// Whether nothing is enforced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every key.
    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }

    /// The key that this program itself uses.
    #[must_use]
    pub fn first(&self) -> Option<&Secret> {
        self.0.first()
    }

    /// The given key and its position. It is compared with every key, so that the duration does not depend on the match.
    pub(crate) fn find(&self, given: &str) -> Option<(usize, &Secret)> {
        let all = self.0.iter().enumerate();
        all.fold(None, |found, (index, key)| if key.matches(given) { Some((index, key)) } else { found })
    }
}

/// The keys to enforce; an empty set accepts every caller.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// For the client API.
    pub client: KeySet,
    /// For the worker API.
    pub worker: KeySet,
    /// The server listens on a loopback address: an API without keys accepts only local host names.
    pub local: bool,
}

impl From<Option<Secret>> for KeySet {
    fn from(key: Option<Secret>) -> Self {
        Self::new(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_key_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "# team a\nfirst\n\n  second  \n").unwrap();
        let keys = KeySet::load(Some(&Secret::from("flag")), Some(&path)).unwrap();
        assert_eq!(keys.first().map(Secret::expose), Some("flag"));
        assert_eq!(
            ["flag", "first", "second", "# team a", ""].map(|key| keys.find(key).map(|(position, _)| position)),
            [Some(0), Some(1), Some(2), None, None]
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for (text, keys) in
            [("\u{feff}first\nsecond\n", &["first", "second"][..]), ("\u{feff}# team a\nfirst", &["first"])]
        {
            std::fs::write(&path, text).unwrap();
            let loaded = KeySet::load(None, Some(&path)).unwrap();
            assert!(loaded.iter().map(Secret::expose).eq(keys.iter().copied()), "{text:?}");
        }
    }

    #[test]
    fn a_file_without_keys_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "# nothing yet\n").unwrap();
        assert!(matches!(KeySet::load(None, Some(&path)), Err(KeyFileError::Empty(_))));
        assert!(matches!(KeySet::load(None, Some(&folder.path().join("no"))), Err(KeyFileError::Unreadable { .. })));
    }
}
