//! Which addresses a request may reach when somebody else has chosen its URL: public ones, and networks that are allowed.
//!
//! Give a reqwest client the [`GuardedResolver`], no proxy and no redirects of its own, and call [`Guard::check`] with the URL of every
//! hop. The resolver is not asked about addresses that stand in a URL, so both are needed.

mod guard;
mod resolver;

pub use guard::{BadNetwork, Guard, PrivateAddress, names_a_host, network};
pub use resolver::{GuardedResolver, Lookup, system_lookup};
