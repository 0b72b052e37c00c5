//! What endpoints that share a database cannot do yet. Each is refused with what to do instead.

use crate::store::error::StoreError;

/// Whose turn it is follows from all jobs that wait.
pub(super) const FAIR_BY: StoreError =
    StoreError::Unsupported("fair_by is not supported with --database; remove it or use --data");

/// One program must follow the jobs at the other endpoint.
pub(super) const OVERFLOW: StoreError =
    StoreError::Unsupported("overflow is not supported with --database; remove it or use --data");
