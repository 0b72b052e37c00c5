//! Secret values that must not appear in any log line or error report.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

/// What stands in place of a secret.
const MASK: &str = "***";
/// Shorter values are no secrets, and masking them would make the log unreadable.
const MIN_LEN: usize = 4;

/// Longest first, so that a secret that contains another one is masked as a whole.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Masks `secret` from now on, in the whole process. Values of fewer than 4 bytes are ignored.
pub fn add(secret: &str) {
    let secret = secret.trim();
    if secret.len() < MIN_LEN {
        return;
    }
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    if !secrets.iter().any(|known| known == secret) {
        secrets.push(secret.to_owned());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }
}

/// `text` with every known secret replaced by `***`.
pub fn clean(text: &str) -> Cow<'_, str> {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let mut text = Cow::Borrowed(text);
    for secret in secrets.iter() {
        if text.contains(secret.as_str()) {
            text = Cow::Owned(text.replace(secret.as_str(), MASK));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_every_occurrence_longest_secret_first() {
        add("rp-inner");
        add("rp-inner-and-outer\n");
        add("");
        add("abc");
        assert_eq!(clean("a rp-inner b rp-inner-and-outer c rp-inner"), "a *** b *** c ***");
        assert_eq!(clean("abc stays"), "abc stays");
    }
}
