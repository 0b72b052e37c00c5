//! What web pages and packing clients get: CORS, gzip in both directions.

use std::io::{Read, Write};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use runpod_endpoint::api::{Keys, Options, Origins, with_encodings};
use runpod_endpoint::store::{Limits, MemoryStore};
use tower::ServiceExt;

use crate::support::Api;

const PAGE: &str = "https://app.example.org";

fn packing() -> Api {
    let api = Api::new();
    Api { router: with_encodings(api.router), app: api.app }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

async fn compressed(api: &Api, path: &str, encoding: &str, body: Vec<u8>) -> crate::support::Reply {
    let request = Request::post(format!("/v2/ep/{path}")).header("content-encoding", encoding);
    api.send(request.body(Body::from(body)).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_compressed_request_is_decompressed() {
    let api = packing();
    for encoding in ["gzip", "GZIP", "x-gzip"] {
        let reply = compressed(&api, "run", encoding, gzip(br#"{"input": {"n": 1.50}}"#)).await;
        assert_eq!(reply.status, StatusCode::OK, "{encoding}: {}", reply.text);
        assert!(api.get("job-take/w1").await.text.contains(r#"{"n": 1.50}"#));
    }
    assert_eq!(compressed(&api, "run", "identity", br#"{"input": 1}"#.to_vec()).await.status, StatusCode::OK);
    // Workers' results too.
    let id = api.take("w1").await;
    let reply = compressed(&api, &format!("job-done/w1/{id}?isStream=false"), "gzip", gzip(br#"{"output": 7}"#)).await;
    assert_eq!((reply.status, api.status(&id).await["output"].as_u64()), (StatusCode::OK, Some(7)));
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_compressed_request_holds_for_its_decompressed_size() {
    let api = packing();
    let body = |bytes: usize| gzip(format!(r#"{{"input": "{}"}}"#, "x".repeat(bytes - 13)).as_bytes());
    assert_eq!(compressed(&api, "run", "gzip", body(10 << 20)).await.status, StatusCode::OK);
    let reply = compressed(&api, "run", "gzip", body((10 << 20) + 1)).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.field("detail").contains("10MiB"), "{}", reply.text);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_decompressed_is_refused_with_the_reason() {
    let api = packing();
    for encoding in ["br", "gzip, gzip", "deflate"] {
        let reply = compressed(&api, "run", encoding, gzip(br#"{"input": 1}"#)).await;
        assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{encoding}");
        assert!(reply.field("error").contains("gzip"), "{}", reply.text);
    }
    let reply = compressed(&api, "run", "gzip", br#"{"input": 1}"#.to_vec()).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.field("error").contains("Content-Encoding"), "{}", reply.text);
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0);
}

async fn ask(api: &Api, path: &str) -> (HeaderMap, Vec<u8>) {
    let request = Request::get(format!("/v2/ep/{path}")).header("accept-encoding", "gzip, br");
    let reply = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    (reply.headers().clone(), to_bytes(reply.into_body(), usize::MAX).await.unwrap().to_vec())
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_compressed_for_a_client_that_asks_and_never_for_a_worker() {
    let api = packing();
    let large = "y".repeat(100_000);
    let id = api.run(&format!(r#"{{"input": "{large}"}}"#)).await;
    let (headers, job) = ask(&api, "job-take/w1").await;
    assert!(!headers.contains_key("content-encoding") && job.len() > large.len());
    api.done("w1", &id, &format!(r#"{{"output": "{large}"}}"#)).await;

    let (headers, body) = ask(&api, &format!("status/{id}")).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(body.len() < large.len() / 10, "{} bytes", body.len());
    let mut text = String::new();
    GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    assert!(text.contains(&large));
    assert!(api.get(&format!("status/{id}")).await.text.contains(&large), "this client did not ask");
    let (headers, _) = ask(&api, "health").await;
    assert!(!headers.contains_key("content-encoding"), "a small answer is not worth it");
}

fn with_origins(keys: Keys, origins: &[&str]) -> Api {
    let origins = Origins::new(origins.iter().map(|origin| origin.parse().unwrap()));
    Api::build(keys, Options { origins, ..Options::default() }, MemoryStore::new(Limits::default()))
}

async fn from_page(api: &Api, method: Method, path: &str, origin: &str) -> (StatusCode, HeaderMap) {
    let request = Request::builder().method(method).uri(format!("/v2/ep/{path}")).header("origin", origin);
    let request = request.header("sec-fetch-site", "cross-site").header("access-control-request-method", "POST");
    let request = request.header("access-control-request-headers", "authorization,idempotency-key");
    let reply = api.router.clone().oneshot(request.body(Body::from(r#"{"input": 1}"#)).unwrap()).await.unwrap();
    (reply.status(), reply.headers().clone())
}

#[tokio::test(start_paused = true)]
async fn pages_of_a_named_origin_may_use_the_client_api_and_no_others() {
    let api = with_origins(Keys::default(), &[PAGE]);
    let (status, headers) = from_page(&api, Method::OPTIONS, "run", PAGE).await;
    assert_eq!((status, &headers["access-control-allow-origin"]), (StatusCode::OK, &PAGE.parse().unwrap()));
    assert_eq!(headers["access-control-allow-headers"], "authorization,idempotency-key");
    let (status, headers) = from_page(&api, Method::POST, "run", PAGE).await;
    assert_eq!((status, &headers["access-control-allow-origin"]), (StatusCode::OK, &PAGE.parse().unwrap()));

    for other in ["https://evil.example.org", "null", "http://app.example.org"] {
        let (status, headers) = from_page(&api, Method::POST, "run", other).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{other}");
        assert!(!headers.contains_key("access-control-allow-origin"), "{other}");
    }
    // A page that may submit jobs may not take them.
    let (status, headers) = from_page(&api, Method::GET, "job-take/w1", PAGE).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(!headers.contains_key("access-control-allow-origin"));
    let (_, headers) = from_page(&api, Method::OPTIONS, "job-take/w1", PAGE).await;
    assert!(!headers.contains_key("access-control-allow-origin"));
}

#[tokio::test(start_paused = true)]
async fn with_a_key_the_browser_can_read_why_a_request_was_refused() {
    let keys = Keys { client: Some(runpod_endpoint::api::Secret::from("key")).into(), ..Keys::default() };
    let api = with_origins(keys, &["*"]);
    let (status, headers) = from_page(&api, Method::OPTIONS, "run", PAGE).await;
    assert_eq!((status, &headers["access-control-allow-origin"]), (StatusCode::OK, &"*".parse().unwrap()));
    let (status, headers) = from_page(&api, Method::POST, "run", PAGE).await;
    assert_eq!((status, &headers["access-control-allow-origin"]), (StatusCode::UNAUTHORIZED, &"*".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn by_default_no_page_of_another_site_may_do_anything() {
    let api = Api::new();
    let (status, headers) = from_page(&api, Method::POST, "run", PAGE).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")), "{headers:?}");
    let (_, headers) = from_page(&api, Method::OPTIONS, "run", PAGE).await;
    assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")), "{headers:?}");
}
