//! The HTTP client. Whoever may submit jobs chooses the URLs, so they must not lead into the network of the worker.

use std::sync::Arc;

use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use runpod_handler_sdk::files::address_guard::{Guard, GuardedResolver, PrivateAddress, system_lookup};

/// Most redirects that are followed for one URL.
const MAX_REDIRECTS: usize = 5;

/// A client that connects to no address but those that its guard permits, whatever names and redirects lead to.
#[derive(Debug)]
pub(crate) struct GuardedClient {
    client: Client,
    guard: Guard,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(
        "{0} has no public address, or redirects to a private one; the operator of the worker can allow private ones with \
         RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS"
    )]
    Private(String),
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    #[error(transparent)]
    Http(reqwest::Error),
}

impl GuardedClient {
    pub(crate) fn new(guard: Guard) -> reqwest::Result<Self> {
        let of_redirects = guard.clone();
        let redirects = Policy::custom(move |attempt| {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error(RequestError::Redirects);
            }
            match of_redirects.check(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(private) => attempt.error(private),
            }
        });
        let resolver = GuardedResolver::new(guard.clone(), system_lookup());
        // A proxy would resolve the names itself.
        let client = Client::builder().redirect(redirects).dns_resolver(Arc::new(resolver)).no_proxy().build()?;
        Ok(Self { client, guard })
    }

    pub(crate) async fn get(&self, url: Url) -> Result<Response, RequestError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        // No resolver is asked about an address in place of a name.
        if let Err(PrivateAddress) = self.guard.check(&url) {
            return Err(RequestError::Private(host));
        }
        self.client.get(url).send().await.map_err(|error| match error {
            error if PrivateAddress::caused(&error) => RequestError::Private(host),
            error => RequestError::Http(error.without_url()),
        })
    }
}
