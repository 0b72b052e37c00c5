//! HEAD has no effect.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

use crate::support::Api;

/// The status, and the methods that the answer names.
async fn ask(api: &Api, method: Method, path: &str) -> (StatusCode, Vec<String>) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let reply = api.router.clone().oneshot(request).await.unwrap();
    let allowed = reply.headers().get("allow").map(|allowed| allowed.to_str().unwrap()).unwrap_or_default();
    let mut allowed: Vec<_> = allowed.split(',').map(|method| method.trim().to_owned()).collect();
    allowed.sort();
    (reply.status(), allowed)
}

#[tokio::test(start_paused = true)]
async fn what_a_route_does_not_have_is_refused_with_the_methods_that_it_has_and_head_is() {
    let api = Api::new();
    let document = api.send(Request::get("/openapi.json").body(Body::empty()).unwrap()).await.json();
    let documented = document["paths"].as_object().unwrap().iter().map(|(path, item)| {
        let mut methods: Vec<_> = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        methods.sort();
        (path.replace("{endpoint}", "ep").replace(['{', '}', '*'], ""), methods)
    });
    let both = || vec!["GET".to_owned(), "POST".to_owned()];
    let of_workers =
        ["job-take", "job-take-batch", "job-stop", "ping"].map(|route| (format!("/v2/ep/{route}/w"), both()));
    let reports = ["hand-back/w", "goodbye/w", "job-done/w/j", "job-stream/w/j"]
        .map(|route| (format!("/v2/ep/{route}"), vec!["POST".to_owned()]));
    let metrics = ("/v2/ep/metrics".to_owned(), vec!["GET".to_owned()]);
    let routes: Vec<_> = documented.chain(of_workers).chain(reports).chain([metrics]).collect();
    assert!(routes.len() > 25, "{routes:?}");
    for (path, methods) in routes {
        for other in [Method::HEAD, Method::TRACE] {
            let refusal = (StatusCode::METHOD_NOT_ALLOWED, methods.clone());
            assert_eq!(ask(&api, other.clone(), &path).await, refusal, "{other} {path}");
        }
    }
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0, "no job came of it");
    assert_eq!(ask(&api, Method::HEAD, "/openapi.json").await.0, StatusCode::OK, "a document is safe to ask for");
}

#[tokio::test(start_paused = true)]
async fn head_takes_neither_jobs_nor_the_items_of_a_stream() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    ask(&api, Method::HEAD, "/v2/ep/job-take/w1").await;
    assert_eq!(api.take("w1").await, id);
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": 7}"#).await;
    ask(&api, Method::HEAD, &format!("/v2/ep/stream/{id}")).await;
    let stream = api.get(&format!("stream/{id}")).await.json();
    assert_eq!(stream["stream"][0]["output"], Value::from(7));
}
