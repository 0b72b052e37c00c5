//! Texts of clients that are kept as they are, outside of JSON.

use std::sync::Arc;

/// The text with U+FFFD in place of NULs: what every engine can keep and look for. The texts of PostgreSQL have no NUL.
pub(crate) fn storable(text: &str) -> Arc<str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_replaced_and_nothing_else() {
        assert_eq!(&*storable("a\0ü\n"), "a\u{fffd}ü\n");
        assert_eq!(&*storable(""), "");
    }
}
