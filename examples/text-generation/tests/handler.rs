//! Runs jobs through the SDK's harness.

#![cfg(test)]

use runpod_handler_sdk::ErrorKind;
use runpod_handler_sdk::testing::Harness;
use serde_json::{Value, json};
use text_generation::TextGeneration;

fn chat(extra: &Value) -> Value {
    let mut input = json!({
        "messages": [{ "role": "user", "content": "What is the capital of Italy?" }],
        "max_tokens": 8,
        "temperature": 0,
    });
    for (name, value) in extra.as_object().into_iter().flatten() {
        input[name] = value.clone();
    }
    input
}

fn openai(route: &str, body: &Value) -> Value {
    json!({ "openai_route": route, "openai_input": body })
}

/// One load for all, because loading takes longer than each of them.
#[test]
fn jobs_of_all_forms_complete_or_fail_with_a_reason() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    std::env::set_current_dir(model).unwrap();
    let mut handler = Harness::load_step::<TextGeneration>().unwrap();

    let plain = handler.run(&chat(&json!({}))).unwrap();
    let text = plain.output["text"].as_str().unwrap().to_owned();
    assert!(!text.is_empty());
    assert_eq!(plain.output["finish_reason"], "length");
    assert_eq!(plain.output["usage"]["completion_tokens"], 8);
    assert_eq!(plain.records["tokens"], 8.0);
    assert!(plain.chunks.is_empty());

    let known = json!({ "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0 });
    let answer = handler.run(&known).unwrap().output;
    assert!(answer["text"].as_str().unwrap().starts_with(" Paris."), "{answer}");
    let mut stopping = known.clone();
    stopping["stop"] = json!([".", "Italy"]);
    let stopped = handler.run(&stopping).unwrap().output;
    assert_eq!((&stopped["text"], &stopped["finish_reason"]), (&json!(" Paris"), &json!("stop")));

    // All together, as a client of OpenAI would ask.
    let results = handler
        .run_all(&[
            chat(&json!({ "stream": true })),
            openai(
                "/v1/chat/completions",
                &chat(&json!({ "stream": true, "stream_options": { "include_usage": true } })),
            ),
            openai("/v1/completions", &json!({ "prompt": "1, 2, 3, 4,", "max_tokens": 3, "temperature": 0 })),
            openai("/v1/models?limit=1", &Value::Null),
            openai("/v1/chat/completions", &chat(&json!({ "model": "gpt-5" }))),
            openai("/v1/completions", &json!({ "prompt": "a", "n": 2 })),
            chat(&json!({ "temperature": 9 })),
            json!({ "max_tokens": 1 }),
            json!({ "prompt": "a", "max_tokens": 8192 }),
        ])
        .unwrap();
    let mut results = results.into_iter();
    let mut next = || results.next().unwrap();

    let streamed = next().unwrap();
    let pieces: String = streamed.chunks.iter().map(|chunk| chunk["text"].as_str().unwrap()).collect();
    assert_eq!((pieces.as_str(), &streamed.output["text"]), (text.as_str(), &json!(text)));

    let streamed = next().unwrap();
    assert_eq!(streamed.output, json!([]));
    let (usage, pieces) = streamed.chunks.split_last().unwrap();
    let content = pieces.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(content.collect::<String>(), text);
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(pieces[0]["object"], "chat.completion.chunk");
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert_eq!(usage["usage"]["completion_tokens"], 8);

    let completion = next().unwrap().output;
    assert_eq!(completion["object"], "text_completion");
    assert_eq!(completion["usage"]["completion_tokens"], 3);

    assert_eq!(next().unwrap().output["data"][0]["id"], "SmolLM2-135M-Instruct");
    assert_eq!(next().unwrap().output["error"]["code"], 404);
    assert_eq!(next().unwrap().output["error"]["code"], 400);
    for expected in ["input.temperature", "needs either prompt or messages", "together at most 8192"] {
        let error = next().unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::Validation));
        assert!(error.to_string().contains(expected), "{error}");
    }
}
