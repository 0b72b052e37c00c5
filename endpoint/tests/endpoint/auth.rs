//! Keys.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use runpod_endpoint::api::{Keys, Secret};

use crate::support::{Api, Reply};

async fn get(api: &Api, path: &str, header: &str, value: &str) -> Reply {
    api.send(Request::get(format!("/v2/ep/{path}")).header(header, value).body(Body::empty()).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn each_api_wants_its_own_key_bare_or_as_bearer() {
    let api = Api::with(Keys {
        client: Some(Secret::from("client")).into(),
        worker: Some(Secret::from("worker")).into(),
        ..Keys::default()
    });
    for (path, key, other) in [("health", "client", "worker"), ("ping/w1", "worker", "client")] {
        for good in [key.to_owned(), format!("Bearer {key}"), format!("bearer {key}")] {
            assert_eq!(get(&api, path, "Authorization", &good).await.status, StatusCode::OK, "{path} {good}");
        }
        for bad in [other, "", "Bearer", "Bearer ", "client2", "Basic client"] {
            let reply = get(&api, path, "Authorization", bad).await;
            assert_eq!((reply.status, reply.json()["status"].as_u64()), (StatusCode::UNAUTHORIZED, Some(401)), "{bad}");
        }
        assert_eq!(api.get(path).await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test(start_paused = true)]
async fn without_keys_pages_of_other_sites_are_refused() {
    let api = Api::new();
    assert_eq!(get(&api, "health", "Origin", "https://evil.example").await.status, StatusCode::FORBIDDEN);
    assert_eq!(get(&api, "ping/w1", "Origin", "null").await.status, StatusCode::FORBIDDEN);
    let own = Request::get("/v2/ep/health").header("Host", "localhost:8000").header("Origin", "http://localhost:8000");
    assert_eq!(api.send(own.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
    assert_eq!(get(&api, "health", "Authorization", "Bearer anything").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn without_keys_a_browser_must_say_that_no_other_site_asks() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    for foreign in ["cross-site", "same-site"] {
        // An image on a page asks like this, without an `Origin`.
        for path in ["job-take/x", "health"] {
            let reply = get(&api, path, "Sec-Fetch-Site", foreign).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path} {foreign}");
            assert!(reply.field("error").ends_with("start the endpoint with --api-key and --worker-key"));
        }
    }
    assert_eq!(api.state(&id).await, "IN_QUEUE");
    for own in ["same-origin", "none"] {
        assert_eq!(get(&api, "health", "Sec-Fetch-Site", own).await.status, StatusCode::OK, "{own}");
    }
    let keys = Keys { client: Some(Secret::from("k")).into(), worker: Some(Secret::from("k")).into(), local: true };
    let with_key = Request::get("/v2/ep/health").header("Sec-Fetch-Site", "cross-site").header("Host", "ep.example");
    let with_key = with_key.header("Authorization", "k").body(Body::empty()).unwrap();
    assert_eq!(Api::with(keys).send(with_key).await.status, StatusCode::OK, "the key decides");
}

#[tokio::test(start_paused = true)]
async fn without_keys_a_name_that_is_pointed_at_this_machine_is_refused() {
    let local = Api::with(Keys { local: true, ..Keys::default() });
    for (host, status) in [
        ("evil.example:8000", StatusCode::FORBIDDEN),
        ("localhost.evil.example", StatusCode::FORBIDDEN),
        ("127.0.0.1:8000", StatusCode::OK),
        ("[::1]:8000", StatusCode::OK),
        ("localhost:8000", StatusCode::OK),
        ("my.localhost", StatusCode::OK),
    ] {
        // After rebinding a page of that site counts as one of ours.
        for path in ["health", "ping/w1"] {
            let request = Request::get(format!("/v2/ep/{path}")).header("Host", host);
            let request = request.header("Origin", format!("http://{host}")).header("Sec-Fetch-Site", "same-origin");
            let reply = local.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(reply.status, status, "{path} {host}");
            assert!(status == StatusCode::OK || reply.field("error").contains("--api-key"), "{}", reply.text);
        }
    }
    assert_eq!(local.get("health").await.status, StatusCode::OK, "a client that names no host");
    assert_eq!(
        get(&Api::new(), "health", "Host", "gpu-box.lan:8000").await.status,
        StatusCode::OK,
        "--insecure-no-auth"
    );
}
