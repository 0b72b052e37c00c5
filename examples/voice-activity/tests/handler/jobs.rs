//! Runs jobs through the SDK's harness.

use runpod_handler_sdk::ErrorKind;
use runpod_handler_sdk::testing::{Harness, JobRequest};
use serde_json::{Value, json};
use voice_activity::VoiceActivity;

use crate::audio::{data_url, in_repository, rewrite, speech};

fn handler() -> Harness {
    in_repository();
    Harness::load::<VoiceActivity>().unwrap()
}

#[test]
fn the_form_of_a_file_does_not_matter() {
    let mut handler = handler();
    let plain = handler.run(&json!({"audio": data_url(&speech())})).unwrap();
    assert_eq!(plain.output["segments"].as_array().unwrap().len(), 5);
    let first = &plain.output["segments"][0];
    assert_eq!((&first["start"], &first["start_sample"]), (&json!(0.514), &json!(8224)));
    assert_eq!(plain.records["audio_seconds"], plain.output["duration"].as_f64().unwrap());

    // Opposite noise in the two channels cancels out.
    let stereo = rewrite(&speech(), 2, 16_000, |samples| {
        samples.iter().flat_map(|&sample| [sample.saturating_add(4000), sample.saturating_sub(4000)]).collect()
    });
    assert_eq!(handler.run(&json!({"audio": data_url(&stereo)})).unwrap().output, plain.output);

    let fast = rewrite(&speech(), 1, 48_000, |samples| samples.iter().flat_map(|&sample| [sample, 0, 0]).collect());
    let output = handler.run(&json!({"audio": data_url(&fast)})).unwrap().output;
    assert_eq!(output["segments"][0]["start"], first["start"]);
    assert_eq!(output["segments"][0]["start_sample"], 3 * 8224);

    let job: Value = serde_json::from_str(include_str!("../../test_input.json")).unwrap();
    let short = handler.run_job(&job).unwrap();
    assert!(!short.chunks.is_empty(), "{:?}", short.output);

    let silence = rewrite(&speech(), 1, 8000, |_| vec![0; 8000]);
    assert_eq!(
        handler.run(&json!({"audio": data_url(&silence)})).unwrap().output,
        json!({"duration": 1.0, "segments": []})
    );
}

#[test]
fn segments_are_streamed_while_the_audio_is_read() {
    let mut handler = handler();
    let long = rewrite(&speech(), 1, 16_000, |samples| samples.repeat(4));
    let job = handler.submit(JobRequest::input(&json!({"audio": data_url(&long)}))).unwrap();
    handler.wait_until(job, |seen| seen.chunks.len() >= 2).unwrap();
    handler.cancel(job).unwrap();
    assert_eq!(handler.wait(job).unwrap_err().kind(), Some(ErrorKind::Cancelled));
}

#[test]
fn bad_input_is_refused_with_the_reason() {
    let mut handler = handler();
    let cut = &speech()[..speech().len() - 1000];
    let slow = rewrite(&speech(), 1, 11_025, <[i16]>::to_vec);
    for (input, problem) in [
        (json!({}), "audio"),
        (json!({"audio": "no base64!"}), "input.audio"),
        (json!({"audio": "http://127.0.0.1:9/speech.wav"}), "public address"),
        (json!({"audio": "bm8gV0FW"}), "ffmpeg"),
        (json!({"audio": data_url(cut)}), "not a WAV file that can be read"),
        (json!({"audio": data_url(&slow)}), "11025 Hz"),
        (json!({"audio": data_url(&speech()), "settings": {"threshold": 7}}), "input.settings.threshold"),
        (json!({"audio": data_url(&speech()), "settings": {"treshold": 0.7}}), "treshold"),
    ] {
        let error = handler.run(&input).unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::Validation), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
    handler.run(&json!({"audio": data_url(&speech())})).unwrap();
}
