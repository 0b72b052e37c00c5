//! Extensions of the worker API. An endpoint announces them in every answer; RunPod's servers announce none, and none is used
//! with them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{RequestBuilder, StatusCode};
use uuid::Uuid;

/// The header of answers that lists the extensions.
const ANNOUNCEMENT: HeaderName = HeaderName::from_static("x-runpod-endpoint-extensions");
/// The header of requests that tells two processes with the same worker id apart.
const INSTANCE: HeaderName = HeaderName::from_static("x-runpod-worker-instance");

/// The header of answers to heartbeats with the longest interval between two of them that the lease of jobs permits, in milliseconds.
const PING_INTERVAL: HeaderName = HeaderName::from_static("x-runpod-endpoint-ping-interval");

/// One extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Jobs that the worker will not answer are handed back at once.
    HandBack,
    /// The worker announces that it leaves.
    Goodbye,
    /// Requests carry the id of the process that sends them.
    Instance,
    /// Heartbeats name the handler and its version.
    Model,
}

impl Extension {
    const ALL: [Self; 4] = [Self::HandBack, Self::Goodbye, Self::Instance, Self::Model];

    fn name(self) -> &'static str {
        match self {
            Self::HandBack => "hand-back",
            Self::Goodbye => "goodbye",
            Self::Instance => "instance",
            Self::Model => "model",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What the queue has announced last. Clones share it.
#[derive(Clone)]
pub struct Extensions(Arc<Shared>);

struct Shared {
    announced: AtomicU8,
    instance: HeaderValue,
}

impl Default for Extensions {
    /// Nothing is announced yet. The id of this process is random.
    fn default() -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let instance = HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("worker"));
        Self(Arc::new(Shared { announced: AtomicU8::new(0), instance }))
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Extension::ALL.into_iter().filter(|extension| self.has(*extension))).finish()
    }
}

impl Extensions {
    /// Takes note of an answer. A successful one without an announcement comes from a queue without extensions; an error may
    /// come from a proxy and changes nothing.
    pub fn note(&self, status: StatusCode, headers: &HeaderMap) {
        let announced = match headers.get(&ANNOUNCEMENT).and_then(|list| list.to_str().ok()) {
            Some(list) => {
                let names = || list.split(',').map(str::trim);
                let known = Extension::ALL.into_iter().filter(|extension| names().any(|name| name == extension.name()));
                known.fold(0, |bits, extension| bits | extension.bit())
            }
            None if matches!(status, StatusCode::OK | StatusCode::NO_CONTENT) => 0,
            None => return,
        };
        self.0.announced.store(announced, Ordering::Relaxed);
    }

    /// Whether the queue has announced an extension.
    pub fn has(&self, extension: Extension) -> bool {
        self.0.announced.load(Ordering::Relaxed) & extension.bit() != 0
    }

    /// Adds the id of this process to a request, if the queue wants it.
    pub fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        if self.has(Extension::Instance) { request.header(INSTANCE, self.0.instance.clone()) } else { request }
    }
}

/// The longest interval between two heartbeats that the queue names in the answer to one, if it does.
pub fn ping_interval(headers: &HeaderMap) -> Option<Duration> {
    headers.get(PING_INTERVAL)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(announcement: &str) -> HeaderMap {
        HeaderMap::from_iter([(ANNOUNCEMENT, HeaderValue::from_str(announcement).unwrap())])
    }

    #[test]
    fn extensions_are_used_only_while_they_are_announced() {
        let extensions = Extensions::default();
        assert_eq!(format!("{extensions:?}"), "{}", "RunPod's servers announce none");
        extensions.note(StatusCode::NO_CONTENT, &headers("goodbye, something-new ,hand-back"));
        assert_eq!(format!("{extensions:?}"), "{HandBack, Goodbye}");
        extensions.note(StatusCode::BAD_GATEWAY, &HeaderMap::new());
        assert!(extensions.has(Extension::HandBack), "the error page of a proxy changes nothing");
        extensions.note(StatusCode::OK, &HeaderMap::new());
        assert_eq!(format!("{extensions:?}"), "{}", "the queue was replaced by one without extensions");
    }

    #[test]
    fn a_request_is_signed_only_if_the_queue_wants_it() {
        let extensions = Extensions::default();
        let client = reqwest::Client::new();
        let signed = |extensions: &Extensions| {
            let request = extensions.sign(client.get("http://localhost/")).build().unwrap();
            request.headers().get(INSTANCE).map(|id| id.to_str().unwrap().to_owned())
        };
        assert_eq!(signed(&extensions), None);
        extensions.note(StatusCode::OK, &headers("instance"));
        let id = signed(&extensions).unwrap();
        assert!((1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        assert_eq!(signed(&extensions), Some(id), "every request of a process has the same id");
        assert_ne!(
            signed(&{
                let other = Extensions::default();
                other.note(StatusCode::OK, &headers("instance"));
                other
            }),
            signed(&extensions)
        );
    }
}
