//! What runs the jobs of an endpoint.

use serde::{Deserialize, Serialize};

/// What runs the jobs, as the handler's manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}
