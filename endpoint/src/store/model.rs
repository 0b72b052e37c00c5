//! What runs the jobs of an endpoint.

/// What runs the jobs, as the handler's manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}
