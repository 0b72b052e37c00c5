//! The handler: one client for all jobs, and within a job as many requests at once as it asks for.

use futures_util::StreamExt as _;
use futures_util::stream;
use runpod_handler_sdk::files::address_guard::Guard;
use runpod_handler_sdk::files::download_guard;
use runpod_handler_sdk::{AsyncHandler, AsyncJob, HandlerError, LoadEnv, NoChunks};
use schemars::JsonSchema;
use serde::Serialize;

use crate::client::GuardedClient;
use crate::fetch::{Fetched, fetch};
use crate::input::Input;

/// Fetches lists of URLs.
#[derive(Debug)]
pub struct FanOut {
    client: GuardedClient,
}

/// What became of all URLs.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// One result for each URL, in the order of the input.
    pub results: Vec<Fetched>,
    /// How many of them have an error.
    pub failed: usize,
}

impl FanOut {
    /// A handler that reaches the addresses that `guard` permits.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new(guard: Guard) -> Result<Self, HandlerError> {
        Ok(Self { client: GuardedClient::new(guard)? })
    }
}

impl AsyncHandler for FanOut {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    // GET requests change nothing.
    const IDEMPOTENT: bool = true;

    async fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        Self::new(download_guard())
    }

    async fn run(&self, input: Input, job: AsyncJob<NoChunks>) -> Result<Output, HandlerError> {
        let requests: Vec<_> = input.urls.iter().map(|url| fetch(&self.client, url, &input)).collect();
        // When the job is cancelled, its future is dropped, and with it all requests in flight.
        let mut answers = stream::iter(requests).buffered(input.concurrency);
        let mut results = Vec::with_capacity(input.urls.len());
        while let Some(answer) = answers.next().await {
            results.push(answer);
            job.progress(format!("{} of {} URLs", results.len(), input.urls.len()));
        }
        let failed = results.iter().filter(|result| result.error.is_some()).count();
        job.record("items", results.len() as f64);
        Ok(Output { results, failed })
    }
}
