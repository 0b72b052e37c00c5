//! Exports spans over OTLP.

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::limits::{EXPORT_TIMEOUT, FLUSH_TIMEOUT};
use crate::base::{ClientError, FailureState, Identity, Secret, UrlTemplate, http_client};

/// Where traces are exported to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceConfig {
    /// Base URL of an OTLP receiver; `/v1/traces` is appended.
    pub endpoint: UrlTemplate,
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The OpenTelemetry variables or the address do not fit together.
    #[error("traces cannot be exported: {0}; check --otlp-endpoint and the OTEL_EXPORTER_OTLP_* variables")]
    Exporter(#[from] ExporterBuildError),
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The running export, to be closed at the end.
#[derive(Debug)]
pub struct TraceExport(SdkTracerProvider);

impl TraceExport {
    pub(super) fn new(provider: SdkTracerProvider) -> Self {
        Self(provider)
    }

    /// Sends what waits, for three seconds at most.
    pub async fn close(self) {
        let flushed = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_TIMEOUT));
        match timeout(FLUSH_TIMEOUT, flushed).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("The last traces did not reach their receiver in time."),
        }
    }
}

/// Starts the exporter: a thread with a bounded queue of spans. Needs a tokio runtime around it.
pub(super) fn provider(config: &TraceConfig, identity: &Identity) -> Result<SdkTracerProvider, TraceError> {
    let url = config.endpoint.for_worker(&identity.worker_id);
    let client = http_client(&Secret::default(), None, reqwest::redirect::Policy::none())?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Exporter { client, runtime: Handle::current(), failure: Mutex::default() })
        .with_endpoint(format!("{}/v1/traces", url.trim_end_matches('/')))
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(identity)).build())
}

fn resource(identity: &Identity) -> Resource {
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("runpod-worker");
    }
    resource
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", identity.worker_id.clone()))
        .with_attributes(identity.endpoint_id.clone().map(|id| KeyValue::new("runpod.endpoint.id", id)))
        .build()
}

/// Posts what the OpenTelemetry crates have encoded, with this program's HTTP client. They call it on a thread of their own.
#[derive(Debug)]
struct Exporter {
    client: reqwest::Client,
    runtime: Handle,
    failure: Mutex<FailureState>,
}

impl Exporter {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = self.client.execute(request.try_into()?);
        let sent = self.runtime.spawn(async move {
            let response = timeout(EXPORT_TIMEOUT, request).await??;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, HttpError>((status, headers, response.bytes().await?))
        });
        let (status, headers, body) = sent.await??;
        let mut response = Response::builder().status(status);
        if let Some(own) = response.headers_mut() {
            *own = headers;
        }
        Ok(response.body(body)?)
    }
}

#[async_trait]
impl HttpClient for Exporter {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let result = self.send(request).await;
        let problem = match &result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(_) => Some("it cannot be reached".to_owned()),
        };
        let mut failure = self.failure.lock();
        match problem {
            Some(problem) => {
                if failure.fail(()) {
                    tracing::warn!(
                        problem,
                        "The receiver of traces does not accept them: check --otlp-endpoint. Spans may be lost."
                    );
                }
            }
            None => {
                if failure.succeed() {
                    tracing::info!("The receiver of traces accepts them again.");
                }
            }
        }
        drop(failure);
        result
    }
}
