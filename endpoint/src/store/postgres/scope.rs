//! Where a unit of work belongs.

use crate::store::job::Position;
use crate::store::limits::Limits;

/// Where a unit of work belongs.
pub(super) struct Scope<'a> {
    pub(super) endpoint: &'a str,
    pub(super) limits: Limits,
    pub(super) replica: &'a str,
    /// Where looks for jobs begin.
    pub(super) floor: Position,
    /// The row of counters that is this unit's own.
    pub(super) lane: i16,
}
