//! The official OpenAI clients, unmodified, against the endpoint's OpenAI routes: with the example `text-generation`, and with a worker
//! whose jobs fail.

use end_to_end_tests::{Endpoint, Stack, WorkerOptions, repository};
use serde_json::{Value, json};

use crate::official::{self, OpenAi};

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_client_for_python_chats_completes_streams_and_sees_errors() {
    // The name of the class for a status that has no class of its own.
    chats_completes_streams_and_sees_errors(OpenAi::Python, "APIStatusError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_client_for_javascript_chats_completes_streams_and_sees_errors() {
    chats_completes_streams_and_sees_errors(OpenAi::JavaScript, "APIError").await;
}

async fn chats_completes_streams_and_sees_errors(client: OpenAi, other_error: &str) {
    let model = repository().join(".models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let options = WorkerOptions::default().env("TEXT_GENERATION_MODEL", &model.to_string_lossy());
    let stack = Stack::start("text-generation", options).await;
    let seen = official::openai_client(client, &stack.client.url("/openai/v1"), &[]);

    assert_eq!(seen["models"], json!(["SmolLM2-135M-Instruct"]));
    let chat = seen["chat"].as_str().unwrap();
    assert!(!chat.is_empty(), "{seen}");
    assert_eq!((&seen["chat_end"], &seen["chat_usage"]), (&json!("length"), &json!(3)));
    assert_eq!((&seen["chat_stream"], &seen["chat_async"]), (&json!(chat), &json!(chat)));
    assert!(seen["chat_stream_chunks"].as_u64().unwrap() > 2, "it comes in pieces: {seen}");
    assert_eq!(
        (&seen["chat_stream_role"], &seen["chat_stream_end"], &seen["chat_stream_usage"]),
        (&json!("assistant"), &json!("length"), &json!(3))
    );

    let text = seen["completion"].as_str().unwrap();
    assert!(text.starts_with(" Paris."), "{seen}");
    assert_eq!(seen["completion_stream"], text);
    let stopped = json!([" Paris", "stop"]);
    assert_eq!((&seen["stopped"], &seen["stopped_stream"]), (&stopped, &stopped));

    let bad = ("BadRequestError", 400, "invalid_request_error");
    let unknown = ("NotFoundError", 404, "not_found_error");
    for (case, (error, status, kind), words) in [
        ("temperature", bad, "temperature must be 0 to 2"),
        ("temperature, streamed", bad, "temperature must be 0 to 2"),
        ("too many tokens", bad, "together at most 8192"),
        ("role", bad, "unknown variant `nobody`"),
        ("model", unknown, "there is no model \"gpt-5\" here"),
        ("model, streamed", unknown, "there is no model \"gpt-5\" here"),
        ("route", unknown, "there is no route"),
        ("form", (other_error, 415, "invalid_request_error"), "base64"),
    ] {
        let failure = &seen["failures"][case];
        assert_eq!(
            (&failure["error"], &failure["status"], &failure["type"], &failure["requests"]),
            (&json!(error), &json!(status), &json!(kind), &json!(1)),
            "{case}: one request, because none of these helps when it is repeated: {failure}"
        );
        assert!(failure["message"].as_str().unwrap().contains(words), "{case}: {failure}");
    }
}

/// The model of jobs that stream an error as the text of an event, as an inference server sends it.
const EVENT: &str = "an event";

/// Ends every job with the error that its request names as the model; one without a model completes. Runs until its endpoint is gone.
async fn fail_jobs(base: String) {
    let http = reqwest::Client::new();
    loop {
        let Ok(taken) = http.get(format!("{base}/job-take/worker-1")).send().await else { return };
        let Ok(job) = taken.json::<Value>().await else { continue };
        let Some(id) = job["id"].as_str() else { continue };
        let result = match job["input"]["openai_input"]["model"].as_str() {
            Some(kind @ ("timeout" | "oom" | "validation")) => {
                let error = json!({"error_type": kind, "error_message": "as asked", "hostname": "h"});
                json!({"error": error.to_string()})
            }
            Some(EVENT) => {
                let text =
                    "data: {\"error\": {\"message\": \"as asked\", \"type\": \"NotFoundError\", \"code\": 404}}\n\n";
                let item = http.post(format!("{base}/job-stream/worker-1/{id}?isStream=true"));
                let _ = item.json(&json!({ "output": text })).send().await;
                json!({"output": []})
            }
            Some(text) => json!({ "error": text }),
            None => json!({"output": "no model"}),
        };
        let done = http.post(format!("{base}/job-done/worker-1/{id}?isStream=false")).json(&result);
        if done.send().await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_clients_repeat_what_may_pass_and_nothing_else() {
    let endpoint = Endpoint::start(&["--hold", "1s"]).await;
    let client = endpoint.client();
    tokio::spawn(fail_jobs(client.url("")));
    // A worker that only fails gets no more jobs.
    assert_eq!(client.run(json!({})).await["status"], "COMPLETED");
    let cases = [
        ("validation", "BadRequestError", 400, "as asked"),
        ("vLLM returned HTTP 404: none", "NotFoundError", 404, "none"),
        ("vLLM returned HTTP 429: slow", "RateLimitError", 429, "slow"),
        ("oom", "InternalServerError", 500, "as asked"),
        ("timeout", "InternalServerError", 504, "as asked"),
    ];
    let models: Vec<_> = cases.iter().map(|(model, ..)| *model).chain([EVENT]).collect();
    for official in [OpenAi::Python, OpenAi::JavaScript] {
        let seen = official::openai_client(official, &client.url("/openai/v1"), &models);
        for (model, error, status, words) in cases {
            // The clients make two more tries by default.
            let requests = if status == 429 || status >= 500 { 3 } else { 1 };
            for case in [model.to_owned(), format!("{model}, streamed")] {
                let failure = &seen[&case];
                assert_eq!(
                    (&failure["error"], &failure["status"], &failure["requests"]),
                    (&json!(error), &json!(status), &json!(requests)),
                    "{official:?}, {case}: {failure}"
                );
                let message = failure["message"].as_str().unwrap();
                assert!(message.contains(words) && !message.contains("hostname"), "{official:?}, {case}: {failure}");
            }
        }
        let failure = &seen[format!("{EVENT}, streamed")];
        assert_eq!(
            (&failure["error"], &failure["status"], &failure["message"], &failure["requests"]),
            (&json!("NotFoundError"), &json!(404), &json!("as asked"), &json!(1)),
            "{official:?}: {failure}"
        );
    }
}
