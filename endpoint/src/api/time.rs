//! Points in time, as the API writes them.

use std::time::UNIX_EPOCH;

use crate::store::Timestamp;

/// RFC 3339 text in UTC.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + at).to_string()
}
