//! Which ids of jobs and workers can be used.
//!
//! An id stands in the path of URLs and in log lines, so it must not change the one or forge the other.

use super::MAX_ID_LEN;

/// Why an id cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// It is empty or too long.
    #[error("has {0} bytes, and 1 to {MAX_ID_LEN} are allowed")]
    Length(usize),
    /// It names a folder in every URL: no request about it would reach the right address.
    #[error("is a relative path, which no URL can carry")]
    Dots,
    /// It has a character that separates the parts of a path or the ids of a list, or that moves the cursor of a terminal.
    #[error("has a character that an id must not have: use letters, digits, - and _")]
    Character,
}

impl IdError {
    /// Whether a request about the id reaches the right address: its characters can be escaped in a URL.
    pub fn is_addressable(self) -> bool {
        self == Self::Character
    }
}

/// Checks the id of a job or of a worker.
///
/// # Errors
/// When it cannot be used.
pub fn check_id(id: &str) -> Result<(), IdError> {
    if !(1..=MAX_ID_LEN).contains(&id.len()) {
        return Err(IdError::Length(id.len()));
    }
    if id == "." || id == ".." {
        return Err(IdError::Dots);
    }
    // A comma separates the ids in a heartbeat.
    if id.contains(['/', '\\', ',']) || runpod_log_line::printable(id) != id {
        return Err(IdError::Character);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_change_a_path_or_forge_a_line_are_refused() {
        for good in ["a", "sync-1b2c-u1", "a.b", "...", "job:7", "ä", "a b", "100%", &"x".repeat(MAX_ID_LEN)] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        for bad in
            ["a/b", "a,b", "/", "../x", "a\\b", "a\nb", "\u{1b}[31m", "a\0", "\u{9b}1m", "\u{202e}abc", "a\u{2028}b"]
        {
            assert_eq!(check_id(bad), Err(IdError::Character), "{bad:?}");
        }
        for (bad, error) in [(".", IdError::Dots), ("..", IdError::Dots), ("", IdError::Length(0))] {
            assert_eq!(check_id(bad), Err(error), "{bad:?}");
        }
        assert_eq!(check_id(&"x".repeat(MAX_ID_LEN + 1)), Err(IdError::Length(MAX_ID_LEN + 1)));
    }
}
