//! Compares the model with the Python reference; see `golden/make_golden.py`.

#![cfg(test)]

use std::path::Path;

use serde::Deserialize;
use tch::Device;
use text_generation::{Decoder, ModelError, Text};

const GOLDEN: &str = include_str!("../golden/golden.json");

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    text: Option<String>,
    #[serde(default)]
    chat: Vec<Message>,
    ids: Vec<i64>,
    best: Vec<usize>,
    scores: Vec<f32>,
    next: Vec<i64>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

fn cases() -> Vec<Case> {
    serde_json::from_str::<Golden>(GOLDEN).unwrap().cases
}

fn decoder() -> Decoder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    Decoder::load(&path, Device::Cpu, |_, _| {}).unwrap_or_else(|error| panic!("{error}"))
}

fn read(decoder: &mut Decoder, ids: &[i64]) -> (Text, Vec<f32>) {
    let (text, scores) = decoder.read(ids, || Ok::<_, ModelError>(())).unwrap();
    (text, Vec::try_from(scores.view(-1)).unwrap())
}

fn best(scores: &[f32]) -> i64 {
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap() as i64
}

/// One load for all comparisons, because loading takes longer than each of them.
#[test]
fn the_model_computes_what_the_reference_does() {
    let mut decoder = decoder();
    let cases = cases();

    // Tokens, scores, and the texts that follow, one text at a time.
    for case in &cases {
        let chat = case.chat.iter().map(|message| (message.role.as_str(), message.content.as_str()));
        let ids = case.text.as_ref().map_or_else(|| decoder.encode_chat(chat), |text| decoder.encode(text)).unwrap();
        assert_eq!(ids, case.ids, "{}", case.name);
        let (_text, scores) = read(&mut decoder, &ids);
        for (&id, expected) in case.best.iter().zip(&case.scores) {
            assert!((scores[id] - expected).abs() < 1e-2, "{}: {} instead of {expected}", case.name, scores[id]);
        }
    }

    // All texts together. Each begins at another step, and they differ in length, so rows are padded, and move when a text ends.
    let mut running: Vec<(&Case, Text, Vec<i64>)> = Vec::new();
    let mut waiting = cases.iter();
    let mut finished = 0;
    while finished < cases.len() {
        if let Some(case) = waiting.next() {
            let (text, scores) = read(&mut decoder, &case.ids);
            running.push((case, text, vec![best(&scores)]));
        }
        let mut texts: Vec<_> = running.iter_mut().map(|(_, text, tokens)| (text, *tokens.last().unwrap())).collect();
        let scores = Vec::<Vec<f32>>::try_from(decoder.step(&mut texts).unwrap()).unwrap();
        for ((_, _, tokens), scores) in running.iter_mut().zip(scores) {
            tokens.push(best(&scores));
        }
        running.retain(|(case, _, tokens)| {
            let ended = tokens.len() >= case.next.len();
            if ended {
                assert_eq!(tokens[..case.next.len()], case.next, "{}", case.name);
                finished += 1;
            }
            !ended
        });
    }
}

#[test]
fn the_error_about_a_missing_model_names_the_fix() {
    let error = Decoder::load(Path::new("no/such/file"), Device::Cpu, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("no/such/file") && error.contains("make models"), "{error}");
}
