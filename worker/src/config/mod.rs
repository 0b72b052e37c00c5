//! Settings: raw text in, one validated [`Config`] out.

mod identity;
mod secret;

pub use identity::Identity;
pub use secret::Secret;
