//! The official OpenAI client, unmodified, and the example `text-generation` behind the endpoint's OpenAI routes.

use end_to_end_tests::{Stack, WorkerOptions, repository};
use serde_json::json;

use crate::official;

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_client_chats_completes_streams_and_sees_errors() {
    let model = repository().join(".models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let options = WorkerOptions::default().env("TEXT_GENERATION_MODEL", &model.to_string_lossy());
    let stack = Stack::start("text-generation", options).await;
    let seen = official::openai_client(&stack.client.url("/openai/v1"));

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
        ("form", ("APIStatusError", 415, "invalid_request_error"), "base64"),
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
