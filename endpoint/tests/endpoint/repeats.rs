//! What busy and careful clients rely on: `Idempotency-Key`, refusals with a time to come back, turns.

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use runpod_endpoint::api::{Catalog, KeySet, Keys, Options, Secret};
use runpod_endpoint::store::{Limits, MemoryStore};
use tower::ServiceExt;

use crate::support::{Api, Reply};

async fn submit(api: &Api, path: &str, caller: &str, key: &str, body: &str) -> Reply {
    let request = Request::post(format!("/v2/ep/{path}")).header("idempotency-key", key);
    let request = request.header("authorization", format!("Bearer {caller}"));
    api.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

fn two_clients() -> Keys {
    Keys { client: KeySet::new(["ann", "bob"].map(Secret::from)), ..Keys::default() }
}

#[tokio::test(start_paused = true)]
async fn the_same_key_and_body_is_the_same_job_and_another_body_is_refused() {
    let api = Api::new();
    let body = r#"{"input": {"n": 1}}"#;
    let first = submit(&api, "run", "", "k-1", body).await;
    let again = submit(&api, "run", "", "k-1", body).await;
    assert_eq!((first.status, &again.text), (StatusCode::OK, &first.text));
    let other = submit(&api, "run", "", "k-1", r#"{"input": {"n": 2}}"#).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(other.field("error").contains("Idempotency-Key"), "{}", other.text);
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 1);

    // Whoever waited in vain waits for the same job, and gets its result.
    let id = api.take("w1").await;
    api.done("w1", &id, r#"{"output": 7}"#).await;
    let result = submit(&api, "runsync", "", "k-1", body).await;
    assert_eq!((result.field("id"), result.json()["output"].as_u64()), (id, Some(7)));
    assert_ne!(submit(&api, "run", "", "k-2", body).await.text, first.text);
}

#[tokio::test(start_paused = true)]
async fn requests_at_the_same_time_with_one_key_wait_for_one_job() {
    let api = Api::new();
    let ask = || submit(&api, "runsync", "", "k", r#"{"input": 1}"#);
    let work = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let id = api.take("w1").await;
        api.done("w1", &id, r#"{"output": 7}"#).await;
        id
    };
    let (one, two, three, id) = tokio::join!(ask(), ask(), ask(), work);
    for reply in [one, two, three] {
        assert_eq!((reply.field("id"), reply.json()["output"].as_u64()), (id.clone(), Some(7)));
    }
    assert_eq!(api.get("health").await.json()["jobs"]["completed"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_belongs_to_the_client_that_uses_it() {
    let api = Api::with(two_clients());
    let ann = submit(&api, "run", "ann", "k", r#"{"input": 1}"#).await.field("id");
    let bob = submit(&api, "run", "bob", "k", r#"{"input": 2}"#).await.field("id");
    assert_ne!(ann, bob);
    assert_eq!(submit(&api, "run", "ann", "k", r#"{"input": 1}"#).await.field("id"), ann);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_refused_uses_up_no_key() {
    let api = Api::new();
    for body in ["x", "{}", r#"{"input": 1, "policy": {"ttl": 1}}"#] {
        assert_eq!(submit(&api, "run", "", "k", body).await.status, StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(submit(&api, "run", "", "k", r#"{"input": 1}"#).await.status, StatusCode::OK);
    for bad in ["", &"k".repeat(256), "\u{e4}"] {
        let reply = submit(&api, "run", "", bad, r#"{"input": 1}"#).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{bad:?}");
        assert!(reply.field("error").contains("Idempotency-Key"), "{}", reply.text);
    }
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 1);
}

async fn headers(api: &Api, path: &str) -> (StatusCode, HeaderMap) {
    let request = Request::post(path).body(Body::from(r#"{"input": 1}"#)).unwrap();
    let reply = api.router.clone().oneshot(request).await.unwrap();
    (reply.status(), reply.headers().clone())
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_full_says_when_to_come_back() {
    let limits = Limits { max_queued: Some(1), ..Limits::default() };
    let api = Api::build(Keys::default(), Options::default(), MemoryStore::new(limits));
    api.run(r#"{"input": 1}"#).await;
    for path in ["/v2/ep/run", "/v2/ep/runsync", "/v2/ep/openai/v1/completions"] {
        let (status, headers) = headers(&api, path).await;
        assert_eq!((status, &headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"5".parse().unwrap()), "{path}");
    }
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 1);
    api.take("w1").await;
    api.run(r#"{"input": 1}"#).await;
}

#[tokio::test(start_paused = true)]
async fn too_many_endpoints_say_when_to_come_back() {
    let api = Api::new();
    for number in 0..1000 {
        assert_eq!(headers(&api, &format!("/v2/ep-{number}/run")).await.0, StatusCode::OK);
    }
    let (status, headers) = headers(&api, "/v2/one-more/run").await;
    assert_eq!((status, &headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"5".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn clients_take_turns_by_key_or_by_a_field_of_the_input() {
    let fair = |by: &str| Catalog { fair_by: Some(by.parse().unwrap()), ..Catalog::default() };
    for (by, expected) in [("client-key", "1 3 2 4"), ("input.user", "1 2 3 4"), ("input.other", "1 2 3 4")] {
        let options = Options { catalog: fair(by), ..Options::default() };
        let api = Api::build(two_clients(), options, MemoryStore::new(Limits::default()));
        for (caller, user, n) in [("ann", "x", 1), ("ann", "y", 2), ("bob", "x", 3), ("bob", "y", 4)] {
            let body = format!(r#"{{"input": {{"n": {n}, "user": "{user}"}}}}"#);
            let request = Request::post("/v2/ep/run").header("authorization", caller).body(Body::from(body)).unwrap();
            assert_eq!(api.send(request).await.status, StatusCode::OK);
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(api.get("job-take/w1").await.json()["input"]["n"].to_string());
        }
        assert_eq!(order.join(" "), expected, "{by}");
    }
    // One endpoint may have a rule of its own.
    let catalog =
        Catalog { own_fair_by: [("ep".to_owned(), "input.user".parse().unwrap())].into(), ..fair("client-key") };
    let api = Api::with_options(Options { catalog, ..Options::default() });
    for user in ["x", "x", "y"] {
        api.run(&format!(r#"{{"input": {{"user": "{user}"}}}}"#)).await;
    }
    let mut order = String::new();
    for _ in 0..3 {
        order += api.get("job-take/w1").await.json()["input"]["user"].as_str().unwrap();
    }
    assert_eq!(order, "xyx");
}
