//! What no worker can beat: a program with the same HTTP client that takes jobs, answers them with their input and does nothing else.
//! It runs no handler, keeps nothing and repeats nothing. The benchmark starts itself as this program.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use futures_util::future::try_join_all;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use serde_json::value::RawValue;

/// The argument that makes this the bare loop. Two more follow: the URL of the line, and how many jobs to take at the same time.
pub(crate) const FLAG: &str = "--bare-loop";

/// Longest input that is looked at for `n`, the number of items to stream.
const SHORT: usize = 100;

/// Runs until it is killed.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(base: &str, batch: usize) -> Result<()> {
    let client = Client::new();
    let route = if batch > 1 { "job-take-batch" } else { "job-take" };
    let take = format!("{base}/{route}/bare?gpu=LOCAL&batch_size={batch}&job_in_progress=0");
    loop {
        let reply = client.get(&take).send().await?;
        if reply.status() != StatusCode::OK {
            continue;
        }
        let body = reply.bytes().await?;
        if batch == 1 {
            answer(&client, base, serde_json::from_slice(&body)?).await?;
            continue;
        }
        let jobs: Vec<Job<'_>> = serde_json::from_slice(&body)?;
        try_join_all(jobs.into_iter().map(|job| answer(&client, base, job))).await?;
    }
}

/// The fields of a job, unparsed.
type Job<'a> = BTreeMap<&'a str, &'a RawValue>;

async fn answer(client: &Client, base: &str, job: Job<'_>) -> Result<()> {
    let id = job.get("id").context("a job without an id")?.get().trim_matches('"');
    let input = job.get("input").context("a job without an input")?.get();
    let items = Some(input).filter(|input| input.len() < SHORT);
    let items = items.and_then(|input| serde_json::from_str::<Value>(input).ok()?["n"].as_u64());
    for item in 0..items.unwrap_or(0) {
        post(client, format!("{base}/job-stream/bare/{id}?gpu=LOCAL&isStream=false"), item.to_string().as_bytes())
            .await?;
    }
    post(client, format!("{base}/job-done/bare/{id}?gpu=LOCAL&isStream=false"), input.as_bytes()).await
}

async fn post(client: &Client, url: String, output: &[u8]) -> Result<()> {
    let body: Bytes = [b"{\"output\":", output, b"}"].concat().into();
    client.post(url).body(body).send().await?.error_for_status()?.bytes().await?;
    Ok(())
}
