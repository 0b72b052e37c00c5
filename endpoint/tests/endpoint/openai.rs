//! The OpenAI passthrough.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use runpod_endpoint::api::{Catalog, KeySet, Keys, Options, Secret};
use runpod_endpoint::store::{Limits, MemoryStore, Policy};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::openai_streams::{stream, streamed};
use crate::support::{Api, Reply};

const CHAT: &str = r#"{"model": "m", "messages": [], "temperature": 0.10}"#;

/// A worker that ends its next job with `body`.
fn work(api: &Api, body: &str) -> JoinHandle<String> {
    let (api, body) = (api.clone(), body.to_owned());
    tokio::spawn(async move {
        let job = api.get("job-take/w1").await;
        api.done("w1", &job.field("id"), &body).await;
        job.text
    })
}

async fn chat(api: &Api) -> Reply {
    api.post("openai/v1/chat/completions", CHAT).await
}

#[tokio::test(start_paused = true)]
async fn a_request_becomes_a_job_and_its_output_the_answer() {
    let api = Api::new();
    let job = work(&api, r#"{"output": {"id": "c1", "choices": [ ]}}"#);
    let answer = chat(&api).await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, r#"{"id": "c1", "choices": [ ]}"#));
    let job = job.await.unwrap();
    assert!(
        job.contains(&format!(r#""input":{{"openai_input":{CHAT},"openai_route":"/v1/chat/completions"}}"#)),
        "{job}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_null_is_not_wanted() {
    let api = Api::new();
    work(&api, r#"{"output": {"id": "c1"}}"#);
    let answer = api.post("openai/v1/chat/completions", r#"{"model": "m", "stream": null}"#).await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, r#"{"id": "c1"}"#));
}

#[tokio::test(start_paused = true)]
async fn a_route_without_a_body_has_no_openai_input() {
    let api = Api::new();
    let job = work(&api, r#"{"output": [{"object": "list"}]}"#);
    let answer = api.get("openai/v1/models").await;
    assert_eq!(&*answer.text, r#"{"object": "list"}"#, "the aggregate of one item is that item");
    assert!(job.await.unwrap().contains(r#""input":{"openai_route":"/v1/models"}"#));
}

#[tokio::test(start_paused = true)]
async fn the_handler_gets_the_query_with_the_route() {
    let api = Api::new();
    for (path, route) in [
        ("v1/files?after=file-1&limit=2", "/v1/files?after=file-1&limit=2"),
        ("v1/files?", "/v1/files"),
        ("v1/files?name=a%20b", "/v1/files?name=a%20b"),
        ("v1/files/a%3Fb%26c", "/v1/files/a%3Fb%26c"),
        ("v1/models/org%2Fname?x=1", "/v1/models/org%2Fname?x=1"),
    ] {
        let job = work(&api, r#"{"output": {}}"#);
        api.get(&format!("openai/{path}")).await;
        let job = job.await.unwrap();
        assert!(job.contains(&format!(r#""openai_route":"{route}""#)), "{job}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_looks_like_the_fields_of_an_error_is_an_answer() {
    let api = Api::new();
    work(&api, r#"{"output": ["error", {"message": "m"}, 404]}"#);
    let answer = chat(&api).await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, r#"["error", {"message": "m"}, 404]"#));
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_failure_tells_whether_to_try_again() {
    let known =
        |kind: &str| json!({"error": json!({"error_type": kind, "error_message": "why", "hostname": "h"}).to_string()});
    let text = |text: &str| json!({ "error": text });
    for (end, status, kind, message) in [
        (known("validation"), 400, "invalid_request_error", "why"),
        (known("model_not_found"), 404, "not_found_error", "why"),
        (known("timeout"), 504, "server_error", "why"),
        (known("oom"), 500, "server_error", "why"),
        (known("<class 'ValueError'>"), 500, "server_error", "why"),
        (text("executionTimeout exceeded"), 504, "server_error", "executionTimeout exceeded"),
        (text("vLLM returned HTTP 404: {}"), 404, "not_found_error", "vLLM returned HTTP 404: {}"),
        (text("vLLM returned HTTP é"), 500, "server_error", "vLLM returned HTTP é"),
        (json!({"output": {"object": "error", "message": "m", "code": 404}}), 404, "not_found_error", "m"),
        (json!({"output": {"error": {"message": "m", "type": "mine", "code": 422}}}), 422, "mine", "m"),
        (json!({"output": {"error": {"message": "m", "type": "mine", "code": "503"}}}), 503, "mine", "m"),
        (json!({"output": {"error": {"message": "m", "type": "mine", "code": null}}}), 500, "mine", "m"),
        (
            json!({"output": {"object": "error", "message": "m", "type": "BadRequestError"}}),
            400,
            "invalid_request_error",
            "m",
        ),
        (
            json!({"output": {"error": {"message": "m", "type": "invalid_request_error", "code": "model_not_found"}}}),
            404,
            "invalid_request_error",
            "m",
        ),
        (
            json!({"output": {"error": {"message": "vLLM returned HTTP 429: slow", "type": "worker_error", "code": null}}}),
            429,
            "worker_error",
            "vLLM returned HTTP 429: slow",
        ),
    ] {
        let api = Api::new();
        let end = end.to_string();
        work(&api, &end);
        let answer = chat(&api).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["type"], &error["message"]),
            (status, &json!(kind), &json!(message)),
            "{end}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_object_keeps_its_fields_and_has_the_status_that_fits_however_it_comes() {
    for (kind, code, status) in [
        ("invalid_request_error", json!("invalid_temperature"), 400),
        ("ValidationError", json!(null), 400),
        ("validation", json!(null), 400),
        ("mine", json!(404), 404),
        ("invalid_request_error", json!("model_not_found"), 404),
        ("TimeoutError", json!(null), 504),
        ("server_error", json!("deadline_exceeded"), 504),
        ("rate_limit_error", json!("rate_limit_exceeded"), 429),
        ("mine", json!("429"), 429),
        ("worker_error", json!(null), 500),
        // The exceptions of the official client.
        ("BadRequestError", json!(null), 400),
        ("AuthenticationError", json!(null), 401),
        ("PermissionDeniedError", json!(null), 403),
        ("NotFoundError", json!(null), 404),
        ("ConflictError", json!(null), 409),
        ("UnprocessableEntityError", json!(null), 422),
        ("LengthFinishReasonError", json!(null), 422),
        ("ContentFilterFinishReasonError", json!(null), 422),
        ("RateLimitError", json!(null), 429),
        ("InternalServerError", json!(null), 500),
        ("APIConnectionError", json!(null), 500),
        ("APIResponseValidationError", json!(null), 500),
        ("APITimeoutError", json!(null), 504),
        ("mine", json!("unprocessable_entity"), 422),
        ("mine", json!("conflict"), 409),
        ("mine", json!(422.0), 422),
        ("mine", json!("422.0"), 422),
        ("mine", json!(422.5), 500),
    ] {
        let error = json!({"message": "it's why", "type": kind, "code": code, "param": "model", "trace": [1]});
        let code = if code.is_null() { "None".to_owned() } else { code.to_string() };
        let python =
            format!("{{'message': \"it's why\", 'type': '{kind}', 'code': {code}, 'param': 'model', 'trace': [1]}}");
        for end in [
            json!({ "error": error }),
            json!({ "error": error.to_string() }),
            json!({ "error": python }),
            json!({ "error": json!({ "error": error }).to_string() }),
            json!({ "output": { "error": error } }),
        ] {
            for answer in [
                async {
                    let api = Api::new();
                    work(&api, &end.to_string());
                    let answer = chat(&api).await;
                    (answer.status, answer.text)
                }
                .await,
                streamed(&[], &end.to_string()).await,
            ] {
                let (found, text) = answer;
                let seen: Value = serde_json::from_str(&text).unwrap();
                assert_eq!((found.as_u16(), &seen["error"]), (status, &error), "{end}");
            }
        }
    }
    let (_, text) = streamed(&[], r#"{"error": {"message": "why"}}"#).await;
    let expected = json!({"error": {"code": 500, "message": "why", "param": null, "type": "server_error"}});
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected, "what clients read is added");
}

#[tokio::test(start_paused = true)]
async fn an_error_object_is_a_failure_whatever_else_is_in_it() {
    let error = r#"{"message": "no file caf\udce9", "code": 404}"#;
    for output in [
        format!(r#"{{"error": {error}}}"#),
        format!(r#"{{"error": {error}, "object": {{}}}}"#),
        format!(r#"{{"error": {error}, "object": ["x"]}}"#),
        format!(r#"{{"error": {error}, "code": NaN, "\udce9": 1e999}}"#),
        format!(r#"{{"error": {{}}, "error": {error}}}"#),
        r#"{"object": "error", "message": "no file caf\udce9", "code": 404}"#.to_owned(),
    ] {
        let data = Value::from(format!("data: {output}\n\n")).to_string();
        let api = Api::new();
        work(&api, &format!(r#"{{"output": {output}}}"#));
        let Reply { status, text } = chat(&api).await;
        for (status, text) in [(status, text), streamed(&[&data], r#"{"output": []}"#).await] {
            assert_eq!(status, StatusCode::NOT_FOUND, "{output}: {text}");
            let seen: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(seen["error"]["message"], "no file caf\u{fffd}", "{output}");
        }
    }
    let api = Api::new();
    work(&api, r#"{"output": {"error": {"message": "m", "code": 404, "n": 1e999}}}"#);
    assert_eq!(chat(&api).await.status, StatusCode::INTERNAL_SERVER_ERROR, "it cannot be read at all");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_says_when_to_try_again() {
    let limits = Limits { max_jobs: 1, ..Limits::default() };
    let api = Api::build(Keys::default(), Options::default(), MemoryStore::new(limits));
    api.run(r#"{"input": {}}"#).await;
    let request = Request::post("/v2/ep/openai/v1/completions").body(Body::from("{}")).unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"5".parse().unwrap())
    );
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["error"]["type"], "rate_limit_error");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_too_busy_says_when_to_try_again() {
    for (status, seconds) in [(429, "5"), (503, "1")] {
        for stream in [false, true] {
            let api = Api::new();
            work(&api, &json!({"output": {"error": {"message": "busy", "code": status}}}).to_string());
            let body = Body::from(json!({ "stream": stream }).to_string());
            let request = Request::post("/v2/ep/openai/v1/completions").body(body).unwrap();
            let response = api.router.oneshot(request).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["retry-after"], seconds, "{status}, stream: {stream}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_expires_in_the_queue_is_a_timeout() {
    let policy = Policy { ttl: Duration::from_secs(60), ..Policy::default() };
    let catalog = Catalog { policies: [("ep".to_owned(), policy)].into(), closed: true, ..Catalog::default() };
    let api = Api::with_options(Options { catalog, ..Options::default() });
    let reader = stream(&api);
    let answer = chat(&api).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (StatusCode::GATEWAY_TIMEOUT, &json!("server_error")));
    assert!(answer.text.contains("has expired"), "{}", answer.text);
    assert!(reader.await.unwrap().1.contains("has expired"));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_is_not_to_be_tried_again() {
    let api = Api::new();
    let caller = api.clone();
    let request = Request::post("/v2/ep/openai/v1/completions").body(Body::from("{}")).unwrap();
    let answer = tokio::spawn(async move { caller.router.oneshot(request).await.unwrap() });
    let id = api.take("w1").await;
    api.post(&format!("cancel/{id}"), "").await;
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["x-should-retry"]),
        (StatusCode::CONFLICT, &"false".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn an_uploaded_form_is_refused_with_a_way_out() {
    let api = Api::new();
    let request = Request::post("/v2/ep/openai/v1/audio/transcriptions");
    let request = request.header("content-type", "multipart/form-data; boundary=b").body(Body::from("--b--")).unwrap();
    let refused = api.send(request).await;
    assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("base64"), "{}", refused.text);
}

#[tokio::test(start_paused = true)]
async fn failures_are_openai_error_objects() {
    let api = Api::new();
    work(&api, r#"{"error": "out of memory"}"#);
    let failed = chat(&api).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    let expected = json!({"code": 500, "message": "out of memory", "param": null, "type": "server_error"});
    assert_eq!(failed.json()["error"], expected);

    work(&api, r#"{"output": {"object": "error", "message": "no such model", "code": 404}}"#);
    assert_eq!(chat(&api).await.status, StatusCode::NOT_FOUND);

    let broken = api.post("openai/v1/completions", "{").await;
    assert_eq!(
        (broken.status, &broken.json()["error"]["type"]),
        (StatusCode::BAD_REQUEST, &"invalid_request_error".into())
    );

    let keyed = Api::with(Keys { client: KeySet::new([Secret::from("k")]), ..Keys::default() });
    let refused = chat(&keyed).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["type"]),
        (StatusCode::UNAUTHORIZED, &"authentication_error".into())
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_result_the_items_that_were_streamed_are_the_answer() {
    for end in [r#"{"output": []}"#, r#"{"output": [ ]}"#, r#"{"output": null}"#, "{}"] {
        for (items, expected) in
            [(&[r#"{"d": 1}"#, r#""two""#][..], r#"[{"d": 1},"two"]"#), (&[r#"{"d": 1}"#], r#"{"d": 1}"#)]
        {
            let api = Api::new();
            let caller = api.clone();
            let answer = tokio::spawn(async move { chat(&caller).await });
            let id = api.take("w1").await;
            for item in items {
                api.post(&format!("job-stream/w1/{id}"), format!(r#"{{"output": {item}}}"#)).await;
            }
            api.done("w1", &id, end).await;
            let answer = answer.await.unwrap();
            assert_eq!((answer.status, &*answer.text), (StatusCode::OK, expected), "{end}");
        }
    }
}

/// What a caller reads who wants a stream: the status, and everything that is sent.
#[tokio::test(start_paused = true)]
async fn a_caller_that_is_told_to_try_again_leaves_no_job() {
    for body in [r#"{"stream": false}"#, r#"{"stream": true}"#] {
        let api = Api::new();
        let caller = api.clone();
        let answer = tokio::spawn(async move { caller.post("openai/v1/completions", body).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 1);
        api.app.shutdown.cancel();
        assert_eq!(answer.await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_stops_its_job() {
    let api = Api::new();
    let caller = api.clone();
    let request = tokio::spawn(async move { chat(&caller).await });
    let id = api.take("w1").await;
    request.abort();
    let stops = api.get("job-stop/w1").await.json();
    assert_eq!(stops["jobsToStop"], json!([id]));
    assert_eq!(api.state(&id).await, "CANCELLED");
}
