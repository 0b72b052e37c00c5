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
    let api =
        Api::with(Keys { client: Some(Secret::from("client")).into(), worker: Some(Secret::from("worker")).into() });
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
