//! Limits that the environment sets in place of the program.

use crate::text::log;

/// The number in a variable, which `lookup` reads. A value that is not a number is logged and ignored.
pub(crate) fn number(name: &str, lookup: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let text = lookup(name)?;
    let parsed = text.trim().parse::<u64>();
    if parsed.is_err() {
        log(format_args!("{name} is {text:?}, which is not a number: the program's own limit is used"));
    }
    parsed.ok()
}
