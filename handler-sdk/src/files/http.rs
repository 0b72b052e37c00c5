//! The HTTP clients: one for URLs that others choose, one for the worker's own bucket.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};
use runpod_address_guard::{Guard, GuardedResolver, Lookup, PrivateAddress};

use crate::file_error::FileError;

/// Longest time until a connection is open.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time without a byte.
const SILENCE: Duration = Duration::from_secs(30);

/// Which addresses downloads may reach.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// Every address, also through the machine's proxy.
    Everywhere,
    /// Public addresses and allowed networks, without a proxy: it would resolve names on its own.
    Guarded(Guard),
}

/// Clients that follow no redirects: each hop is checked where it is followed.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Reaches what the settings allow.
    pub(crate) guarded: Client,
    /// Reaches everything.
    pub(crate) trusted: Client,
}

impl Clients {
    pub(crate) fn new(reach: &Reach, lookup: Lookup) -> Result<Self, FileError> {
        let guarded = match reach {
            Reach::Everywhere => builder(),
            Reach::Guarded(guard) => {
                builder().no_proxy().dns_resolver(Arc::new(GuardedResolver::new(guard.clone(), lookup)))
            }
        };
        let build = |builder: ClientBuilder| builder.build().map_err(|error| FileError::Machine(text_of(error)));
        Ok(Self { guarded: build(guarded)?, trusted: build(builder())? })
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .redirect(Policy::none())
        .user_agent(concat!("runpod-handler-sdk/", env!("CARGO_PKG_VERSION")))
}

/// Checks the scheme of a URL, and its address if it holds one. Host names are checked when they are resolved.
pub(crate) fn check(reach: &Reach, url: &Url) -> Result<(), FileError> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(FileError::Redirects { host: host_of(url) });
    }
    match reach {
        Reach::Guarded(guard) => {
            guard.check(url).map_err(|PrivateAddress| FileError::PrivateAddress { host: host_of(url) })
        }
        Reach::Everywhere => Ok(()),
    }
}

/// The error of a request, as one about a download from `host`.
pub(crate) fn download_error(host: &str, error: reqwest::Error) -> FileError {
    let host = host.to_owned();
    if PrivateAddress::caused(&error) {
        FileError::PrivateAddress { host }
    } else {
        FileError::Unreachable { host, cause: text_of(error) }
    }
}

/// The innermost cause, such as `connection refused`. The outer ones only say that a request failed, and may name the URL.
pub(crate) fn text_of(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {}", if error.is_connect() { "10 s" } else { "30 s" });
    }
    let error = error.without_url();
    let innermost = std::iter::successors(Some(&error as &dyn Error), |cause| (**cause).source()).last();
    innermost.map_or_else(String::new, ToString::to_string)
}

/// The host of a URL: all that an error may show of it.
pub(crate) fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or("the URL").to_owned()
}
