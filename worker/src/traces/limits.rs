//! Limits of the export of traces.

use std::time::Duration;

use crate::base::limits;

limits! {
    "traces";
    /// Limit of one export, tries and pauses together.
    pub(super) const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
    /// How long the end of the program waits for the last export.
    pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
}
