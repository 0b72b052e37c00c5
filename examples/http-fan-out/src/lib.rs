//! An async handler: each job is a list of URLs, which it fetches at the same time within a limit.

mod client;
mod fetch;
mod handler;
mod input;

pub use fetch::Fetched;
pub use handler::{FanOut, Output};
pub use input::Input;
