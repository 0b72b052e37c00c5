//! Prints the similarity of the texts of a job.
//!
//! Usage: `similarity request.json < result.json`, where the request is `{"input": {"input": ["…", …]}}` and the result is the
//! document that `/status` returns.
#![expect(clippy::print_stdout, reason = "the table is the output of the program")]

use std::io;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// Number of characters of a text that are shown.
const SHOWN: usize = 48;

#[derive(Deserialize)]
struct Request {
    input: Texts,
}

#[derive(Deserialize)]
struct Texts {
    input: Vec<String>,
}

#[derive(Deserialize)]
struct Job {
    output: Output,
}

#[derive(Deserialize)]
struct Output {
    embeddings: Vec<Vec<f32>>,
}

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1).context("usage: similarity request.json < result.json")?;
    let request = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let request: Request = serde_json::from_slice(&request).context("the request is not a list of texts")?;
    let job: Job = serde_json::from_reader(io::stdin().lock()).context("standard input is not the result of a job")?;
    let (texts, vectors) = (request.input.input, job.output.embeddings);
    ensure!(texts.len() == vectors.len(), "{} texts but {} vectors", texts.len(), vectors.len());

    let header: String = (1..=texts.len()).map(|number| format!("{number:>7}")).collect();
    println!("{:>SHOWN$}    {header}", "cosine similarity");
    for (i, text) in texts.iter().enumerate() {
        let text: String = text.chars().take(SHOWN).collect();
        let row: String = vectors.iter().map(|other| format!("{:>7.2}", cosine(&vectors[i], other))).collect();
        println!("{text:>SHOWN$} {:>2} {row}", i + 1);
    }
    Ok(())
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
