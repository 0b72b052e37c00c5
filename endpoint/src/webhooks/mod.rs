//! Webhooks: reports the end of a job to a URL of the client's choice, off the path of the job itself.

mod body;
mod client;
mod deliver;
mod origin;
mod schedule;
mod signature;
mod target;

pub use deliver::{Webhooks, WebhooksError};
pub(crate) use origin::origin_name;
pub use runpod_address_guard::Guard;
pub use schedule::Schedule;
pub use signature::{BadSecret, Signer};
pub use target::{BadTarget, TargetCheck};
