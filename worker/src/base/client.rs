//! The HTTP client of every request that the worker sends, and the text of a request that failed.

use reqwest::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
pub use runpod_alerts::request_error_text;

use super::{
    CONNECT_TIMEOUT, IDLE_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, Secret, VERSION, tls,
};

/// Why a client cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The key has characters that a header cannot carry.
    #[error("RUNPOD_AI_API_KEY has characters that an HTTP header cannot carry: set it to the key alone")]
    Key,
    /// The TLS or proxy settings of this machine cannot be used.
    #[error(
        "the HTTP client cannot start ({0}): install the ca-certificates package and check the HTTPS_PROXY variable"
    )]
    Client(String),
}

impl From<rustls::Error> for ClientError {
    fn from(error: rustls::Error) -> Self {
        Self::Client(error.to_string())
    }
}

/// Builds a client that sends the worker's headers: the raw key, unless it is empty, and the media type, if there is one.
///
/// # Errors
/// When the key cannot stand in a header or the system has no usable TLS set-up.
pub fn http_client(key: &Secret, media_type: Option<&'static str>, redirects: Policy) -> Result<Client, ClientError> {
    let mut headers = HeaderMap::new();
    if let Some(media_type) = media_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    if !key.is_empty() {
        let mut value = HeaderValue::from_str(key.expose()).map_err(|_| ClientError::Key)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    tls::client_builder()?
        .default_headers(headers)
        .user_agent(format!("runpod-worker/{VERSION}"))
        .redirect(redirects)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_keepalive(KEEPALIVE_IDLE)
        .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
        .tcp_keepalive_retries(KEEPALIVE_RETRIES)
        .build()
        .map_err(|error| ClientError::Client(request_error_text(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_without_showing_it() {
        let error = http_client(&Secret::new("hunter2\nx"), None, Policy::none()).unwrap_err();
        assert!(matches!(error, ClientError::Key));
        assert!(!error.to_string().contains("hunter2"));
    }
}
