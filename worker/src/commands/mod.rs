//! The commands beside `run`.

mod schema;
mod test;

pub use schema::{SchemaError, schema};
pub use test::{TestError, test};
