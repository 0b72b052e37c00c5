//! Webhooks: tells a URL of the client's choice how a job ended, off the path of the job itself.

mod body;
mod client;
mod deliver;
mod guard;
mod signature;

pub use deliver::{Webhooks, WebhooksError};
pub use guard::Guard;
pub use signature::{BadSecret, Signer};
