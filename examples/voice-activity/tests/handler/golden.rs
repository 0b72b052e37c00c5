//! Compares the handler with the Python package; see `golden/make_golden.py`.

use std::collections::BTreeMap;
use std::path::Path;

use runpod_handler_sdk::testing::Harness;
use serde::Deserialize;
use serde_json::{Value, json};
use tch::Device;
use voice_activity::{Detector, Rate, Segments, Settings, Span, VoiceActivity, Wav};

use crate::audio::{at_8_khz, data_url, in_repository, speech};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    probabilities: BTreeMap<u32, Vec<f64>>,
    sequences: Vec<Sequence>,
}

/// Probabilities without audio.
#[derive(Deserialize)]
struct Sequence {
    scores: Vec<f64>,
    arguments: Settings,
    length: u64,
    segments: Vec<[u64; 2]>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    arguments: BTreeMap<String, Value>,
    segments: Vec<[u64; 2]>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../golden/golden.json")).unwrap()
}

#[test]
fn segments_are_those_of_the_python_package() {
    in_repository();
    let mut handler = Harness::load::<VoiceActivity>().unwrap();
    for Case { name, mut arguments, segments } in golden().cases {
        let audio = match arguments.remove("sampling_rate") {
            Some(_) => at_8_khz(&speech()),
            None => speech(),
        };
        let finished = handler.run(&json!({"audio": data_url(&audio), "settings": arguments})).unwrap();
        let found: Vec<Value> = finished.output["segments"].as_array().unwrap().clone();
        let samples: Vec<Value> = found.iter().map(|one| json!([one["start_sample"], one["end_sample"]])).collect();
        assert_eq!(json!(samples), json!(segments), "{name}");
        assert_eq!(finished.chunks, found, "{name}");
    }
}

#[test]
fn probabilities_are_those_of_the_python_package() {
    in_repository();
    let _guard = tch::no_grad_guard();
    let mut detector = Detector::load(Path::new(".models/silero-vad/silero_vad.jit"), Device::Cpu).unwrap();
    // The second time shows that no state of the first audio is left.
    for _ in 0..2 {
        for (rate, expected) in golden().probabilities {
            let (audio, rate) =
                if rate == 8000 { (at_8_khz(&speech()), Rate::Hz8000) } else { (speech(), Rate::Hz16000) };
            let mut wav = Wav::open(std::io::Cursor::new(audio)).unwrap();
            detector.begin().unwrap();
            for (index, expected) in expected.iter().enumerate() {
                let probability = detector.probability(&wav.window().unwrap(), rate).unwrap();
                assert!((probability - expected).abs() < 1e-3, "{rate:?} {index}: {probability}, not {expected}");
            }
            assert!(wav.window().unwrap().is_empty());
        }
    }
}

#[test]
fn the_segments_of_any_probabilities_are_those_of_the_python_package() {
    for (index, Sequence { scores, arguments, length, segments }) in golden().sequences.into_iter().enumerate() {
        let mut search = Segments::new(&arguments, Rate::Hz16000);
        let mut found: Vec<Span> = scores.into_iter().filter_map(|score| search.push(score)).collect();
        found.extend(search.finish(length));
        let found: Vec<[u64; 2]> = found.into_iter().map(|span| [span.start, span.end]).collect();
        assert_eq!(found, segments, "{index}: {arguments:?}");
    }
}

#[test]
fn the_error_about_a_missing_model_names_the_fix() {
    let error = Detector::load(Path::new("no/such/file"), Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("no/such/file") && error.contains("make models"), "{error}");
}
