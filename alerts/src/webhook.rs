//! Posts one message to the receiver.

use std::fmt;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};

use crate::message::{Format, Message};
use crate::request_error::request_error_text;

/// Limit of one try.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Where alerts are sent. The URL gives access, so it is a secret: it is printed as `set`.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

/// A URL that cannot be used. The text does not show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the alert webhook is not a URL: give http:// or https:// with a host")]
pub struct BadUrl;

impl WebhookUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// When the text is not a URL, or not HTTP.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let url = Url::parse(text.trim()).map_err(|_| BadUrl)?;
        let usable = matches!(url.scheme(), "http" | "https") && url.has_host();
        if usable { Ok(Self(url)) } else { Err(BadUrl) }
    }

    /// The value itself, for the list of secrets to redact.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("set")
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookUrl(set)")
    }
}

/// Why a message was not accepted. The texts name no URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No HTTP client.
    #[error("the alert webhook cannot be used: {0}; check the certificate settings of this machine")]
    Client(String),
    /// The receiver refused the message.
    #[error("the receiver of alerts answered {status}; it must answer with a 2xx status")]
    Status {
        /// The status of its answer.
        status: u16,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// No answer.
    #[error("the receiver of alerts cannot be reached: {0}")]
    Unreachable(String),
}

impl SendError {
    /// Whether another try may end differently.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Client(_) => false,
            Self::Status { status, .. } => *status == 408 || *status == 429 || *status >= 500,
            Self::Unreachable(_) => true,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The receiver of alerts.
#[derive(Clone, Debug)]
pub struct Webhook {
    client: Client,
    url: WebhookUrl,
    format: Format,
}

impl Webhook {
    /// A receiver at this URL.
    ///
    /// # Errors
    /// When this machine has no usable TLS settings.
    pub fn new(url: WebhookUrl, format: Format) -> Result<Self, SendError> {
        // A redirect would turn the POST into a GET, or send the alert to another server.
        let client = Client::builder().redirect(Policy::none()).timeout(ATTEMPT_LIMIT).build();
        Ok(Self { client: client.map_err(|error| SendError::Client(request_error_text(error)))?, url, format })
    }

    /// Posts one message, once.
    ///
    /// # Errors
    /// When it is not answered with a 2xx status.
    pub async fn post(&self, message: &Message) -> Result<(), SendError> {
        let body = message.body(self.format).to_string();
        let request = self.client.post(self.url.0.clone()).header("content-type", "application/json").body(body);
        let answer = request.send().await.map_err(|error| SendError::Unreachable(request_error_text(error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(SendError::Status { status: status.as_u16(), retry_after: retry_after(&answer) })
    }
}

/// Slack and Discord give seconds; a date counts as absent.
fn retry_after(answer: &Response) -> Option<Duration> {
    let asked = matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let text = answer.headers().get(RETRY_AFTER).filter(|_| asked)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_are_accepted_and_none_is_shown() {
        for text in ["hooks.example.org/secret", "ftp://example.org/secret", "", "http:///"] {
            let error = WebhookUrl::parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let url = WebhookUrl::parse(" https://hooks.example.org/secret \n").unwrap();
        assert_eq!(format!("{url} {url:?}"), "set WebhookUrl(set)");
        assert_eq!(url.expose(), "https://hooks.example.org/secret");
    }

    #[tokio::test]
    async fn an_error_does_not_name_the_url_of_the_receiver() {
        let url = WebhookUrl::parse("http://127.0.0.1:1/secret-path").unwrap();
        let webhook = Webhook::new(url, Format::Plain).unwrap();
        let error = webhook.post(&Message::test("w", std::time::SystemTime::now())).await.unwrap_err();
        assert!(error.is_temporary());
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("secret-path"), "{shown}");
        assert!(shown.contains("onnection refused"), "the cause is missing in: {shown}");
    }
}
