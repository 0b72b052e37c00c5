//! OpenAI routes whose answer is a stream of events.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::support::Api;

/// A caller of a stream, who reads it to its end.
pub(crate) fn stream(api: &Api) -> JoinHandle<(StatusCode, String)> {
    let api = api.clone();
    tokio::spawn(async move {
        let request = Request::post("/v2/ep/openai/v1/completions").body(Body::from(r#"{"stream": true}"#)).unwrap();
        let response = api.router.oneshot(request).await.unwrap();
        let (status, kind) = (response.status(), response.headers()["content-type"].clone());
        assert_eq!(kind, if status.is_success() { "text/event-stream" } else { "application/json" });
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    })
}

/// What the caller of a stream reads whose job has these items and this end.
pub(crate) async fn streamed(items: &[&str], end: &str) -> (StatusCode, String) {
    let api = Api::new();
    let reader = stream(&api);
    let id = api.take("w1").await;
    for item in items {
        api.post(&format!("job-stream/w1/{id}"), format!(r#"{{"output": {item}}}"#)).await;
    }
    api.done("w1", &id, end).await;
    reader.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_streaming_request_gets_events_as_items_arrive() {
    let expected = (StatusCode::OK, "data: {\"d\": 1}\n\ndata: {\"d\": 2}\n\ndata: [DONE]\n\n".to_owned());
    for items in [
        &[r#"{"d": 1}"#, "{\n\"d\": 2}"][..],
        &[r#""data: {\"d\": 1}\n\n""#, r#""data: {\"d\": 2}\n\n""#],
        &[r#""data: {\"d\": 1}""#, r#""\n\nda""#, r#""ta: {\"d\": 2}\n\ndata: [DO""#, r#""NE]\n\n""#],
        &[r#""data: {\"d\": 1}\n\ndata: {\"d\": 2}""#],
        &[r#""data: {\"d\": 1}\r\n\r""#, r#""\ndata: {\"d\": 2}\r\n\r\ndata: [DO""#, r#""NE]\r\n\r\n""#],
    ] {
        let (status, text) = streamed(items, r#"{"output": []}"#).await;
        let text = text.replace("{ \"d\"", "{\"d\"").replace("\r\n", "\n");
        assert_eq!((status, text), expected, "{items:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_text_that_does_not_end_its_event_is_not_glued_to_what_follows() {
    let done = "data: [DONE]\n\n";
    for open in [r#""data: {\"d\": 1}""#, r#""data: {\"d\": 1}\n""#] {
        let begin = "data: {\"d\": 1}\n";
        let (_, text) = streamed(&[open, r#"{"d": 2}"#], r#"{"output": []}"#).await;
        assert!(text.starts_with(begin) && text.ends_with(&format!("\n\ndata: {{\"d\": 2}}\n\n{done}")), "{text}");
        let (_, text) = streamed(&[open, r#"{"error": {"message": "no"}}"#], r#"{"output": []}"#).await;
        assert!(text.contains("\n\ndata: {\"error\""), "{text}");

        let api = Api::new();
        let reader = stream(&api);
        let id = api.take("w1").await;
        api.post(&format!("job-stream/w1/{id}"), format!(r#"{{"output": {open}}}"#)).await;
        tokio::time::sleep(Duration::from_secs(31)).await;
        api.app.shutdown.cancel();
        let (_, text) = reader.await.unwrap();
        assert!(text.starts_with(begin) && text.contains("\n\ndata: {\"error\":{\"code\":503"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_job_that_has_streamed_is_no_event() {
    let api = Api::new();
    let reader = stream(&api);
    let id = api.take("w1").await;
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": {"d": 1}}"#).await;
    // The reader gets the item before the job ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    api.done("w1", &id, r#"{"output": {"whole": 1}}"#).await;
    assert_eq!(reader.await.unwrap().1, "data: {\"d\": 1}\n\ndata: [DONE]\n\n");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_was_not_streamed_is_the_stream() {
    let done = "data: [DONE]\n\n";
    for (output, events) in [
        (r#"{"d": 1}"#, format!("data: {{\"d\": 1}}\n\n{done}")),
        (r#"[{"d": 1}, "two", 3]"#, format!("data: {{\"d\": 1}}\n\ndata: \"two\"\n\ndata: 3\n\n{done}")),
        (r#""a text""#, format!("data: \"a text\"\n\n{done}")),
        (r#""data: 1\n\ndata: [DONE]\n\n""#, format!("data: 1\n\n{done}")),
        (r#"["da", "ta: 1"]"#, format!("data: 1\n\n{done}")),
        ("7", format!("data: 7\n\n{done}")),
        ("null", done.to_owned()),
        ("[]", done.to_owned()),
    ] {
        let expected = (StatusCode::OK, events);
        assert_eq!(streamed(&[], &format!(r#"{{"output": {output}}}"#)).await, expected, "{output}");
    }
    let (status, text) = streamed(&[], r#"{"output": [{"error": {"message": "no", "code": 404}}]}"#).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_before_its_first_item_has_the_status_of_the_failure() {
    let failed = r#"{"error": "{\"error_type\": \"validation\", \"error_message\": \"no\"}"}"#;
    let returned = r#"{"output": {"error": {"message": "no", "code": 400}}}"#;
    let item = r#"{"error": {"message": "no", "code": 400}}"#;
    for (items, end) in [(&[][..], failed), (&[], returned), (&[item], r#"{"output": []}"#)] {
        let (status, text) = streamed(items, end).await;
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &error["error"]["message"]), (StatusCode::BAD_REQUEST, &json!("no")), "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_first_event_of_a_stream_is_the_status_in_whatever_form_it_comes() {
    let whole = r#"data: {"error": {"message": "no", "code": 404}}"#;
    let pieces: Vec<String> = format!("{whole}\n\n").chars().map(String::from).collect();
    for texts in [
        vec![format!("{whole}\n\ndata: [DONE]\n\n")],
        vec![format!("event: error\r\n{whole}\r\n\r\n")],
        vec![format!(": hello\n\n{whole}\n\n")],
        vec![r#"data: {"object": "error", "message": "no", "code": 404}"#.to_owned()],
        vec![r#"data: {"error": {"message": "no", "type": "not_found_error"}}"#.to_owned(), "\n\n".to_owned()],
        pieces,
    ] {
        let items: Vec<_> = texts.iter().map(|text| Value::from(&**text).to_string()).collect();
        let items: Vec<_> = items.iter().map(String::as_str).collect();
        let (status, text) = streamed(&items, r#"{"output": []}"#).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{texts:?}: {text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["error"]["message"], "no");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_events_of_a_stream_arrive_while_the_job_runs() {
    let api = Api::new();
    let (caller, id) = (
        api.clone(),
        tokio::spawn({
            let api = api.clone();
            async move {
                let id = api.take("w1").await;
                for piece in ["da", "ta: 1\n", "\ndata: 2"] {
                    api.post(&format!("job-stream/w1/{id}"), json!({"output": piece}).to_string()).await;
                }
                id
            }
        }),
    );
    let request = Request::post("/v2/ep/openai/v1/completions").body(Body::from(r#"{"stream": true}"#)).unwrap();
    let mut body = caller.router.oneshot(request).await.unwrap().into_body().into_data_stream();
    let mut text = String::new();
    while text != "data: 1\n\ndata: 2" {
        text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    let id = id.await.unwrap();
    assert_eq!(api.state(&id).await, "IN_PROGRESS");
    api.done("w1", &id, r#"{"output": []}"#).await;
    assert_eq!(body.next().await.unwrap().unwrap(), "\n\ndata: [DONE]\n\n");
}

#[tokio::test(start_paused = true)]
async fn streams_of_other_openai_routes_are_passed_on_as_they_are() {
    let (status, text) = streamed(&[r#""event: response.created\ndata: {\"n\": 1}\n\n""#], r#"{"output": []}"#).await;
    let expected = "event: response.created\ndata: {\"n\": 1}\n\ndata: [DONE]\n\n";
    assert_eq!((status, &*text), (StatusCode::OK, expected));
}

#[tokio::test(start_paused = true)]
async fn a_method_that_openai_does_not_have_becomes_no_job() {
    let api = Api::new();
    for method in ["OPTIONS", "TRACE"] {
        let request = Request::builder().method(method).uri("/v2/ep/openai/v1/models").body(Body::empty()).unwrap();
        assert_eq!(api.send(request).await.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_later_ends_with_an_error_event() {
    let (status, text) = streamed(&[r#"{"d": 1}"#], r#"{"error": "no"}"#).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.starts_with("data: {\"d\": 1}\n\ndata: {\"error\":{\"code\":500,\"message\":\"no\""), "{text}");
    assert!(!text.contains("[DONE]"), "a client that ignores the error must not take this for the end: {text}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_begins_and_is_kept_alive() {
    let api = Api::new();
    let reader = stream(&api);
    tokio::time::sleep(Duration::from_secs(70)).await;
    let id = api.take("w1").await;
    api.done("w1", &id, r#"{"error": "no"}"#).await;
    let (status, text) = reader.await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(text.starts_with(": waiting\n\n: waiting\n\ndata: {\"error\":"), "{text}");
}
