//! The example `voice-activity` behind a real worker and endpoint: audio from a URL, and in the job itself.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end_tests::{Stack, WorkerOptions, repository};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::failures::error;

/// Four sentences and the pauses between them, mono at 16 kHz.
const SPEECH: &[u8] = include_bytes!("../../examples/voice-activity/golden/speech.wav");

/// A server with good audio and bad.
async fn server() -> String {
    let wav = |data: Vec<u8>| async move { ([(CONTENT_TYPE, "audio/wav")], data).into_response() };
    // The sample rate, and the bytes in a second.
    let mut slow = SPEECH.to_vec();
    slow[24..28].copy_from_slice(&44_100_u32.to_le_bytes());
    slow[28..32].copy_from_slice(&88_200_u32.to_le_bytes());
    let endless = || async { Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(vec![0_u8; 64 * 1024]))) };
    let router = Router::new()
        .route("/speech.wav", get(move || wav(SPEECH.to_vec())))
        .route("/moved", get(|| async { Redirect::temporary("/speech.wav") }))
        .route("/page", get(|| async { "<html>Sign in to hear this</html>" }))
        .route("/cut.wav", get(move || wav(SPEECH[..SPEECH.len() / 2].to_vec())))
        .route("/slow.wav", get(move || wav(slow)))
        .route("/long.wav", get(endless));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn options() -> WorkerOptions {
    let model = repository().join(".models/silero-vad/silero_vad.jit");
    WorkerOptions::default().env("VOICE_ACTIVITY_MODEL", &model.to_string_lossy())
}

/// The output of a job, and what it has streamed.
async fn segments(stack: &Stack, audio: &str) -> (Value, Vec<Value>) {
    let id = stack.client.submit(json!({ "audio": audio })).await;
    let streamed = stack.client.stream(&id).await;
    let job = stack.client.finished(&id).await;
    assert_eq!(job["status"], "COMPLETED", "{job}");
    (job["output"].clone(), streamed)
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_from_a_url_has_the_same_segments_as_audio_in_the_job_and_bad_audio_fails_alone() {
    let base = server().await;
    let options =
        options().env("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "127.0.0.0/8").env("RUNPOD_MAX_DOWNLOAD_BYTES", "1000000");
    let stack = Stack::start("voice-activity", options).await;

    let inside = segments(&stack, &STANDARD.encode(SPEECH)).await;
    assert_eq!(inside.0["segments"].as_array().unwrap().len(), 5, "{inside:?}");
    assert_eq!(json!(inside.1), inside.0["segments"], "each segment is streamed");
    for path in ["speech.wav", "moved"] {
        assert_eq!(segments(&stack, &format!("{base}/{path}")).await, inside, "{path}");
    }

    for (path, words) in [
        ("page", "input.audio: this is not a WAV file that can be read"),
        ("cut.wav", "input.audio: this is not a WAV file that can be read"),
        ("slow.wav", "input.audio: the sample rate is 44100 Hz"),
        ("long.wav", "the file is larger than the limit of 1000000 bytes"),
        ("nothing.wav", "127.0.0.1 answered 404"),
    ] {
        let job = stack.client.run(json!({"audio": format!("{base}/{path}")})).await;
        let error = error(&job);
        assert_eq!(error["error_type"], "validation", "{path}: {error}");
        let message = error["error_message"].as_str().unwrap();
        assert!(message.contains(words), "{path}: {error}");
        assert!(!message.contains(path), "no part of the URL but its host: {error}");
    }
    assert_eq!(segments(&stack, &format!("{base}/speech.wav")).await, inside, "after all of these");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_variable_no_audio_is_fetched_from_this_machine() {
    let base = server().await;
    let stack = Stack::start("voice-activity", options()).await;
    let job = stack.client.run(json!({"audio": format!("{base}/speech.wav")})).await;
    let error = error(&job);
    assert_eq!(error["error_type"], "validation", "{error}");
    assert!(error["error_message"].as_str().unwrap().contains("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS"), "{error}");
}
