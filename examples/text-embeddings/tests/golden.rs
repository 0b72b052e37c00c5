//! Compares the model with the Python reference; see `golden/make_golden.py`.

#![cfg(test)]

use std::path::Path;

use serde::Deserialize;
use tch::Device;
use text_embeddings::{Embedding, Encoder, ModelError, Precision};

const GOLDEN: &str = include_str!("../golden/golden.json");

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    text: String,
    tokens: usize,
    embedding: Vec<f32>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str::<Golden>(GOLDEN).unwrap().cases
}

fn encoder() -> Encoder {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-MiniLM-L6-v2");
    load(&dir).unwrap_or_else(|error| panic!("{error}"))
}

fn load(dir: &Path) -> Result<Encoder, ModelError> {
    load_as(dir, Precision::F32)
}

fn load_as(dir: &Path, precision: Precision) -> Result<Encoder, ModelError> {
    Encoder::load(dir, Device::Cpu, precision, |variables, path| variables.load(path).map_err(ModelError::from))
}

fn embed(encoder: &Encoder, texts: &[&str]) -> Vec<Embedding> {
    encoder.embed(texts, |_| Ok::<_, ModelError>(())).unwrap()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Both vectors have length 1, so the dot product is the cosine.
fn assert_same(case: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{case}");
    let cosine = dot(actual, expected);
    assert!(cosine >= 0.9999, "{case}: cosine {cosine}");
    let difference = actual.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= 1e-4, "{case}: largest difference {difference}");
}

#[test]
fn every_text_alone_matches_the_reference() {
    let encoder = encoder();
    for case in cases() {
        let actual = embed(&encoder, &[&case.text]);
        assert_eq!(actual[0].tokens, case.tokens, "{}", case.name);
        assert_same(&case.name, &actual[0].vector, &case.embedding);
    }
}

#[test]
fn all_texts_in_one_padded_batch_match_the_reference() {
    let cases = cases();
    let texts: Vec<&str> = cases.iter().map(|case| case.text.as_str()).collect();
    let actual = embed(&encoder(), &texts);
    for (case, embedding) in cases.iter().zip(&actual) {
        assert_eq!(embedding.tokens, case.tokens, "{}", case.name);
        assert_same(&case.name, &embedding.vector, &case.embedding);
    }
}

/// The digits that half precision has are enough to find the same texts.
#[test]
fn half_precision_points_in_the_same_direction() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-MiniLM-L6-v2");
    let cases = cases();
    let texts: Vec<&str> = cases.iter().map(|case| case.text.as_str()).collect();
    for (precision, least) in [(Precision::F16, 0.9999), (Precision::Bf16, 0.999)] {
        let actual = embed(&load_as(&dir, precision).unwrap(), &texts);
        for (case, embedding) in cases.iter().zip(&actual) {
            let cosine = dot(&embedding.vector, &case.embedding);
            assert!(cosine >= least, "{precision:?}, {}: cosine {cosine}", case.name);
            let length = dot(&embedding.vector, &embedding.vector);
            assert!((length - 1.0).abs() < 1e-5, "{precision:?}, {}: length {length}", case.name);
        }
    }
}

#[test]
fn texts_keep_their_order_across_batches() {
    let encoder = encoder();
    let cases = cases();
    // More than two batches of mixed lengths, so that sorting moves nearly every text.
    let mixed: Vec<&Case> = (0..80).map(|i| &cases[(i * 5) % 11]).collect();
    let texts: Vec<&str> = mixed.iter().map(|case| case.text.as_str()).collect();
    let mut calls = Vec::new();
    let actual = encoder
        .embed(&texts, |done| {
            calls.push(done);
            Ok::<_, ModelError>(())
        })
        .unwrap();
    assert_eq!(calls, [0, 32, 64]);
    for (case, embedding) in mixed.iter().zip(&actual) {
        assert_same(&case.name, &embedding.vector, &case.embedding);
    }
}

#[test]
fn an_error_between_batches_ends_the_work() {
    #[derive(Debug)]
    struct Stop;
    impl From<ModelError> for Stop {
        fn from(error: ModelError) -> Self {
            panic!("{error}")
        }
    }
    let mut calls = 0;
    let result = encoder().embed(&["a"; 100], |done| {
        calls += 1;
        if done > 0 { Err(Stop) } else { Ok(()) }
    });
    assert!(result.is_err());
    assert_eq!(calls, 2, "the batch after the error must not run");
}

#[test]
fn similar_sentences_are_closer_than_unrelated_ones() {
    let actual = embed(
        &encoder(),
        &[
            "A man is eating food.",
            "Someone is having a meal.",
            "The stock market fell sharply after the announcement.",
        ],
    );
    let [short, similar, unrelated] = [&actual[0].vector, &actual[1].vector, &actual[2].vector];
    assert!(dot(short, similar) > 0.5, "{}", dot(short, similar));
    assert!(dot(short, unrelated) < 0.2, "{}", dot(short, unrelated));
}

#[test]
fn the_error_about_a_missing_directory_names_the_fix() {
    let error = load(Path::new("no/such/dir")).unwrap_err().to_string();
    assert!(error.contains("no/such/dir/config.json") && error.contains("make model"), "{error}");
}
