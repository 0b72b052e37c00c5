//! Webhooks: reports the end of a job to a URL of the client's choice, off the path of the job itself.

mod body;
mod client;
mod deliver;
mod signature;

pub use deliver::{Webhooks, WebhooksError};
pub use runpod_address_guard::Guard;
pub use signature::{BadSecret, Signer};
