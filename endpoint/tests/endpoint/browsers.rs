//! What web pages and packing clients get: CORS, gzip in both directions.

use std::io::{Read, Write};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures_util::stream;
use runpod_endpoint::api::{Catalog, Keys, Options, Origins};
use runpod_endpoint::store::{Limits, MemoryStore, Policy};
use tower::ServiceExt;

use crate::support::Api;

const PAGE: &str = "https://app.example.org";

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
    let api = Api::new();
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
    let api = Api::new();
    let body = |bytes: usize| gzip(format!(r#"{{"input": "{}"}}"#, "x".repeat(bytes - 13)).as_bytes());
    assert_eq!(compressed(&api, "run", "gzip", body(10 << 20)).await.status, StatusCode::OK);
    let reply = compressed(&api, "run", "gzip", body((10 << 20) + 1)).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.field("detail").contains("10MiB"), "{}", reply.text);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_decompressed_is_refused_with_the_reason() {
    let api = Api::new();
    for encoding in ["br", "gzip, gzip", "deflate"] {
        let reply = compressed(&api, "run", encoding, gzip(br#"{"input": 1}"#)).await;
        assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{encoding}");
        assert!(reply.field("error").contains("gzip"), "{}", reply.text);
    }
    let whole = gzip(br#"{"input": 1}"#);
    let garbage = [&*whole, br#"{"input": 2}"#].concat();
    let cut = [&*whole, &whole[..12]].concat();
    for unreadable in [br#"{"input": 1}"#, &*garbage, &cut, &whole[..20]] {
        let reply = compressed(&api, "run", "gzip", unreadable.to_vec()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{unreadable:?}");
        assert!(reply.field("error").contains("Content-Encoding"), "{}", reply.text);
        // In pieces, as a client may send them.
        let pieces: Vec<_> = unreadable.chunks(7).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        let request = Request::post("/v2/ep/run").header("content-encoding", "gzip");
        let reply = api.send(request.body(Body::from_stream(stream::iter(pieces))).unwrap()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{unreadable:?}");
    }
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0);
}

#[tokio::test(start_paused = true)]
async fn all_members_of_a_compressed_request_are_read() {
    let api = Api::new();
    let members = [gzip(br#"{"input": "#), gzip(b""), gzip(b"[1, 2]}")].concat();
    assert_eq!(compressed(&api, "run", "gzip", members).await.status, StatusCode::OK);
    assert!(api.get("job-take/w1").await.text.contains(r#""input":[1, 2]"#));
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(
        compressed(&api, &format!("cancel/{id}"), "gzip", Vec::new()).await.status,
        StatusCode::OK,
        "there is nothing"
    );
    let nothing = Body::from_stream(stream::empty::<std::io::Result<Vec<u8>>>());
    let request = Request::post("/v2/ep/purge-queue").header("content-encoding", "gzip");
    assert_eq!(api.send(request.body(nothing).unwrap()).await.status, StatusCode::OK);
}

/// A request that some layer refuses, and its status.
type Refused = (Request<Body>, u16);

/// Requests below `path` that each layer refuses.
fn refused_by_every_layer(path: &str) -> Vec<Refused> {
    let post = |path: &str| Request::post(path.to_owned()).header("authorization", "key");
    let with = |name: &str, value: &str| post(path).header(name, value);
    let body = || Body::from(r#"{"input": 1}"#);
    vec![
        (Request::post(path.to_owned()).body(body()).unwrap(), 401),
        (with("content-encoding", "br").body(body()).unwrap(), 415),
        (with("content-encoding", "gzip").body(body()).unwrap(), 400),
        (post(path).body(Body::from("{")).unwrap(), 400),
        (post(path).body(Body::from(vec![b' '; (20 << 20) + 1])).unwrap(), 400),
        (post(path).body(Body::from(vec![b' '; 65 << 20])).unwrap(), 400),
        (post(&path.replace("/ep/", "/e%20p/")).body(body()).unwrap(), 400),
        (post(&path.replace("/ep/", "/e%ffp/")).body(body()).unwrap(), 400),
        (post(&path.replace("/ep/", "/unknown/")).body(body()).unwrap(), 404),
        (with("x-large", &"x".repeat(65 << 10)).body(body()).unwrap(), 431),
        (Request::builder().method("TRACE").uri(path).header("authorization", "key").body(body()).unwrap(), 405),
        (post(path).body(body()).unwrap(), 429),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_layer_refuses_in_the_form_of_the_routes_api() {
    let keys = Keys { client: Some(runpod_endpoint::api::Secret::from("key")).into(), ..Keys::default() };
    let catalog =
        Catalog { policies: [("ep".to_owned(), Policy::default())].into(), closed: true, ..Catalog::default() };
    let limits = Limits { max_queued: Some(0), ..Limits::default() };
    let api = Api::build(keys, Options { catalog, ..Options::default() }, MemoryStore::new(limits));
    for (request, status) in refused_by_every_layer("/v2/ep/openai/v1/completions") {
        let name = format!("{} {} {:?}", request.method(), request.uri(), request.headers().keys());
        let reply = api.send(request).await;
        assert_eq!(reply.status.as_u16(), status, "{name}: {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], status, "{name}: {}", reply.text);
        assert!(error["message"].is_string() && error["type"].is_string(), "{name}: {}", reply.text);
    }
    for (request, status) in refused_by_every_layer("/v2/ep/runsync") {
        let name = format!("{} {} {:?}", request.method(), request.uri(), request.headers().keys());
        let reply = api.send(request).await;
        assert_eq!(reply.status.as_u16(), status, "{name}: {}", reply.text);
        let problem = reply.json();
        assert_eq!((&problem["status"], &problem["detail"]), (&status.into(), &problem["error"]), "{name}");
        assert!(problem["error"].is_string() && problem["title"].is_string(), "{name}: {}", reply.text);
    }
    // What is no route belongs to the API that it is closest to.
    for (path, is_openai) in
        [("/v2/ep/openai", true), ("/v2/ep/openai/", true), ("/v2/ep/none", false), ("/none", false)]
    {
        let reply = api.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!((reply.status, reply.json()["error"].is_object()), (StatusCode::NOT_FOUND, is_openai), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_rewritten_keeps_its_headers() {
    let limits = Limits { max_queued: Some(0), ..Limits::default() };
    let origins = Origins::new([PAGE.parse().unwrap()]);
    let api = Api::build(Keys::default(), Options { origins, ..Options::default() }, MemoryStore::new(limits));
    let (status, headers) = from_page(&api, Method::POST, "openai/v1/completions", PAGE).await;
    assert_eq!((status, &headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"5".parse().unwrap()));
    assert_eq!(headers["access-control-allow-origin"], PAGE);
}

async fn ask(api: &Api, path: &str) -> (HeaderMap, Vec<u8>) {
    let request = Request::get(format!("/v2/ep/{path}")).header("accept-encoding", "gzip, br");
    let reply = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    (reply.headers().clone(), to_bytes(reply.into_body(), usize::MAX).await.unwrap().to_vec())
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_compressed_for_a_client_that_asks_and_never_for_a_worker() {
    let api = Api::new();
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
async fn a_permitted_page_may_use_every_route_of_the_client_api() {
    let api = with_origins(Keys::default(), &[PAGE]);
    let document = api.send(Request::get("/openapi.json").body(Body::empty()).unwrap()).await.json();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{endpoint}", "ep").replace(['{', '}'], "");
        for method in item.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            let request =
                Request::options(&path).header("origin", PAGE).header("access-control-request-method", &method);
            let reply = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(reply.status(), StatusCode::OK, "{method} {path}");
            let allowed = reply.headers()["access-control-allow-methods"].to_str().unwrap();
            assert!(allowed.split(',').any(|allowed| allowed.trim() == method), "{method} {path}: {allowed}");
            asked += 1;
        }
    }
    assert!(asked > 30, "{asked}");
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
async fn a_permitted_page_can_read_every_refusal() {
    let keys = Keys { client: Some(runpod_endpoint::api::Secret::from("key")).into(), ..Keys::default() };
    let catalog =
        Catalog { policies: [("ep".to_owned(), Policy::default())].into(), closed: true, ..Catalog::default() };
    let limits = Limits { max_queued: Some(0), ..Limits::default() };
    let origins = Origins::new([PAGE.parse().unwrap()]);
    let api = Api::build(keys, Options { catalog, origins, ..Options::default() }, MemoryStore::new(limits));
    let refused = ["/v2/ep/run", "/v2/ep/openai/v1/completions"].map(refused_by_every_layer);
    let unknown = ["/v2/ep/openai", "/v2/ep/none"].map(|path| (Request::get(path).body(Body::empty()).unwrap(), 404));
    for (mut request, status) in refused.into_iter().flatten().chain(unknown) {
        let name = format!("{} {} {:?}", request.method(), request.uri(), request.headers().keys());
        request.headers_mut().insert("origin", PAGE.parse().unwrap());
        let reply = api.router.clone().oneshot(request).await.unwrap();
        assert_eq!(reply.status().as_u16(), status, "{name}");
        assert_eq!(reply.headers()["access-control-allow-origin"], PAGE, "{name}");
    }
    let preflight = Request::options("/v2/ep/none").header("access-control-request-method", "POST");
    let preflight = preflight.header("origin", PAGE).body(Body::empty()).unwrap();
    let reply = api.router.clone().oneshot(preflight).await.unwrap();
    assert_eq!(reply.headers()["access-control-allow-origin"], PAGE, "else the page never asks");
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
