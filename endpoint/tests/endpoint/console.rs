//! The console's page and its event streams.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Request, StatusCode};
use futures_util::StreamExt;
use runpod_endpoint::api::{Keys, Secret};
use runpod_endpoint::console::{self, Console};
use runpod_endpoint::local::{Local, Manifest};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::support::{Api, SOON};

fn open(api: &Api, local: Local, keys: &Keys) -> Router {
    console::router(Console::new(api.app.store.clone(), local, api.app.shutdown.clone()), keys)
}

async fn get(router: &Router, path: &str) -> (StatusCode, HeaderMap, Body) {
    let reply = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = reply.into_parts();
    (parts.status, parts.headers, body)
}

/// Server-sent events, read one by one.
struct Events {
    body: BodyDataStream,
    text: String,
}

impl Events {
    async fn open(router: &Router, path: &str) -> Self {
        let (status, headers, body) = get(router, path).await;
        assert_eq!((status, &headers["content-type"]), (StatusCode::OK, &"text/event-stream".parse().unwrap()));
        Self { body: body.into_data_stream(), text: String::new() }
    }

    /// The next event of this name; `None` when the stream ends.
    async fn next(&mut self, name: &str) -> Option<Value> {
        let wanted = format!("event: {name}\ndata: ");
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let found = event.strip_prefix(&wanted).map(|data| serde_json::from_str(data).unwrap());
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
            }
            let frame = timeout(SOON, self.body.next()).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&frame.unwrap()).unwrap());
        }
    }
}

fn statuses(job: &Value) -> Vec<&str> {
    job["history"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_job_is_followed_from_the_queue_to_its_end() {
    let api = Api::new();
    let router = open(&api, Local::default(), &Keys::default());
    let id = api.run(r#"{"input": {"n": 1}}"#).await;
    let mut events = Events::open(&router, &format!("/console/ep/jobs/{id}/events")).await;
    let first = events.next("job").await.unwrap();
    assert_eq!((&first["input"], statuses(&first)), (&json!({"n": 1}), vec!["IN_QUEUE"]));

    api.take("w1").await;
    let taken = events.next("job").await.unwrap();
    assert_eq!(statuses(&taken), ["IN_QUEUE", "IN_PROGRESS"]);
    assert_eq!((&taken["history"][1]["worker"], &taken["input"]), (&json!("w1"), &Value::Null));

    api.post(&format!("job-stream/w1/{id}"), r#"{"output": "a"}"#).await;
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": "b"}"#).await;
    let streamed = events.next("job").await.unwrap();
    assert_eq!((&streamed["firstItem"], &streamed["items"]), (&json!(0), &json!(["a", "b"])));

    api.done("w1", &id, r#"{"output": 7}"#).await;
    let done = events.next("job").await.unwrap();
    assert_eq!((statuses(&done).pop(), &done["output"], &done["items"]), (Some("COMPLETED"), &json!(7), &json!([])));

    api.get(&format!("status/{id}?ttl=2000")).await;
    assert_eq!(events.next("gone").await, Some(json!({})));
    assert_eq!(events.next("job").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_local_workers_log_about_a_job_is_shown_with_it() {
    let api = Api::new();
    let local = Local::of("ep");
    let router = open(&api, local.clone(), &Keys::default());
    let id = api.run(r#"{"input": 1}"#).await;
    local.logs().add(&format!("INFO   | {id} | Started. attempt=1"));
    local.logs().add("INFO   | other | Started. attempt=1");
    let mut events = Events::open(&router, &format!("/console/ep/jobs/{id}/events")).await;
    assert!(events.next("job").await.is_some(), "the job comes first");
    let shown = |lines: Value| lines.as_array().unwrap().iter().map(|line| line["text"].clone()).collect::<Vec<_>>();
    assert_eq!(shown(events.next("log").await.unwrap()), ["Started. attempt=1"]);
    api.take("w1").await;
    assert!(events.next("job").await.is_some());
    local.logs().add(&format!(r#"{{"requestId": "{id}", "message": "step 1", "level": "WARN"}}"#));
    let line = events.next("log").await.unwrap();
    assert_eq!((shown(line.clone()), &line[0]["level"]), (vec![json!("step 1")], &json!("WARN")));
}

#[tokio::test(start_paused = true)]
async fn looking_takes_nothing_from_the_stream() {
    let api = Api::new();
    let router = open(&api, Local::default(), &Keys::default());
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": 1}"#).await;
    let path = format!("/console/ep/jobs/{id}/events");
    let seen = Events::open(&router, &path).await.next("job").await.unwrap();
    assert_eq!(seen["items"], json!([1]));
    assert_eq!(api.get(&format!("stream/{id}")).await.json()["stream"], json!([{"output": 1}]));
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": 2}"#).await;
    let seen = Events::open(&router, &path).await.next("job").await.unwrap();
    assert_eq!((&seen["firstItem"], &seen["items"]), (&json!(1), &json!([2])), "a client has read the first item");
}

#[tokio::test(start_paused = true)]
async fn a_lost_job_shows_its_way_back_to_the_queue() {
    let api = Api::new();
    let router = open(&api, Local::default(), &Keys::default());
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.ping("w1", &id).await;
    tokio::time::sleep(Duration::from_secs(41)).await;
    api.take("w2").await;
    let path = format!("/console/ep/jobs/{id}/events");
    let job = Events::open(&router, &path).await.next("job").await.unwrap();
    assert_eq!(statuses(&job), ["IN_QUEUE", "IN_PROGRESS", "IN_QUEUE", "IN_PROGRESS"]);
    let workers: Vec<_> = job["history"].as_array().unwrap().iter().map(|step| step["worker"].clone()).collect();
    assert_eq!(workers, [Value::Null, json!("w1"), Value::Null, json!("w2")]);
}

#[tokio::test(start_paused = true)]
async fn jobs_are_listed_newest_first_and_filtered() {
    let api = Api::new();
    let router = open(&api, Local::default(), &Keys::default());
    let (old, new) = (api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await);
    api.take("w1").await;
    api.done("w1", &old, r#"{"error": "no"}"#).await;
    for (query, expected) in [
        ("", vec![&new, &old]),
        ("?status=FAILED", vec![&old]),
        ("?status=IN_QUEUE", vec![&new]),
        (&format!("?id={}", &new[4..20]), vec![&new]),
        (&format!("?id={old}&status=IN_QUEUE"), vec![]),
    ] {
        let mut events = Events::open(&router, &format!("/console/ep/events{query}")).await;
        let jobs = events.next("jobs").await.unwrap();
        let ids: Vec<_> = jobs.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{query}");
    }
    let mut events = Events::open(&router, "/console/ep/events").await;
    assert_eq!(events.next("workers").await.unwrap()[0]["id"], "w1");
    let point = events.next("point").await.unwrap();
    assert_eq!((&point["inQueue"], &point["failed"], &point["idle"]), (&json!(1), &json!(1), &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn the_page_is_open_and_its_data_needs_the_key() {
    let api = Api::new();
    let keys = Keys { client: Some(Secret::from("key")).into(), ..Keys::default() };
    let router = open(&api, Local::of("mine"), &keys);
    let (status, headers, _) = get(&router, "/").await;
    assert_eq!(status, StatusCode::OK);
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    for path in ["/console/endpoints", "/console/ep/events", "/console/ep/jobs/x/events", "/console/mine/manifest"] {
        assert_eq!(get(&router, path).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
    let request = Request::get("/console/endpoints").header(AUTHORIZATION, "Bearer key").body(Body::empty()).unwrap();
    let reply = router.oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(reply.into_body(), 1000).await.unwrap();
    assert_eq!(&body[..], br#"{"endpoints":["mine"],"loadBalancers":[]}"#);
}

#[tokio::test]
async fn every_file_that_the_page_names_is_there() {
    let api = Api::new();
    let router = open(&api, Local::default(), &Keys::default());
    let mut files = vec!["/".to_owned()];
    let mut seen = 0;
    while let Some(file) = files.pop() {
        let (status, _, body) = get(&router, &file).await;
        assert_eq!(status, StatusCode::OK, "{file}");
        let text = String::from_utf8(axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        assert!(!text.contains("innerHTML") && !text.contains("https://"), "{file} parses HTML or needs a network");
        let quoted = text.split('"').skip(1).step_by(2);
        let named = quoted.filter_map(|name| match name.strip_prefix("./") {
            Some(module) if module.ends_with(".js") => Some(format!("/console/{module}")),
            _ => Some(format!("/{name}")).filter(|file| file.starts_with("/console/") && file.contains('.')),
        });
        files.extend(named);
        seen += 1;
        assert!(seen < 200);
    }
    assert!(seen > 8, "{seen}");
}

#[tokio::test(start_paused = true)]
async fn viewers_are_bounded_and_leave_with_the_server() {
    let api = Api::new();
    let router = open(&api, Local::default(), &Keys::default());
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Events::open(&router, "/console/ep/events").await);
    }
    assert_eq!(get(&router, "/console/ep/events").await.0, StatusCode::TOO_MANY_REQUESTS);
    open.pop();
    let mut last = Events::open(&router, "/console/ep/events").await;
    api.app.shutdown.cancel();
    assert_eq!(last.next("none of this name").await, None);
}

#[tokio::test(start_paused = true)]
async fn the_schema_belongs_to_the_endpoint_of_the_handler() {
    let api = Api::new();
    let local = Local::of("mine");
    let manifest = r#"{"name": "h", "input_schema": {"type": "object"}, "output_schema": true}"#;
    let router = open(&api, local.clone(), &Keys::default());
    assert_eq!(get(&router, "/console/mine/manifest").await.0, StatusCode::NOT_FOUND);
    local.set_manifest(serde_json::from_str::<Manifest>(manifest).unwrap());
    assert_eq!(get(&router, "/console/mine/manifest").await.0, StatusCode::OK);
    assert_eq!(get(&router, "/console/other/manifest").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_overview_is_there_as_one_document_with_gpus_and_batches_of_local_workers() {
    let api = Api::new();
    // A worker's own `/health`, as far as it concerns GPUs and batches.
    let batching = json!({"maxJobs": 8, "running": 5, "waiting": 2, "meanBatch": 4.5});
    let health = json!({
        "runtime": {"uptimeInSeconds": 5, "gpus": [{"id": "GPU-1", "index": 0, "gpuUtilPercent": 97.5}]},
        "worker": {"processes": [{"id": 0, "batching": batching}, {"id": 1}]},
    });
    let worker = Router::new().route("/health", axum::routing::get(|| async { axum::Json(health) }));
    let url = crate::commands::serve(worker).await;
    let port = url.split([':', '/']).find_map(|part| part.parse().ok());
    let local = Local::of("ep");
    let _listed = local.list("w1", std::process::id(), port);
    let _deaf = local.list("w2", std::process::id(), Some(1));
    let router = open(&api, local, &Keys::default());
    let failed = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.done("w1", &failed, r#"{"error": "no"}"#).await;
    let waiting = api.run(r#"{"input": 2}"#).await;

    let document = async |query: &str| {
        let (status, _, body) = get(&router, &format!("/console/ep/{query}")).await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice::<Value>(&axum::body::to_bytes(body, usize::MAX).await.unwrap()).unwrap()
    };
    let overview = document("overview").await;
    let ids: Vec<_> = overview["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&*waiting, &*failed]);
    assert_eq!((&overview["counters"]["failed"], &overview["counters"]["inQueue"]), (&json!(1), &json!(1)));
    assert!(overview["oldestWait"].is_u64());
    let worker = &overview["workers"][0];
    assert_eq!((&worker["id"], &worker["gpus"]), (&json!("w1"), &json!([{"id": "GPU-1", "gpuUtilPercent": 97.5}])));
    assert_eq!(worker["batching"], json!([batching]));
    assert!(worker["memoryPercent"].as_f64().unwrap() > 0.0);

    assert_eq!(document("overview?status=FAILED").await["jobs"].as_array().unwrap().len(), 1);
    let job = document(&format!("jobs/{failed}")).await;
    assert_eq!((statuses(&job), &job["error"]), (vec!["IN_QUEUE", "IN_PROGRESS", "FAILED"], &json!("no")));
    let keys = Keys { client: Some(Secret::from("k")).into(), ..Keys::default() };
    let guarded = open(&api, Local::default(), &keys);
    for path in ["/console/ep/overview", "/console/ep/jobs/x"] {
        assert_eq!(get(&guarded, path).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_history_is_searched_page_by_page() {
    let api = Api::new();
    let router = open(&api, Local::default(), &Keys::default());
    let search = async |query: &str| {
        let (status, _, body) = get(&router, &format!("/console/ep/history?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query}");
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let ids = |page: &Value| -> Vec<String> {
        page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut all = Vec::new();
    for _ in 0..120 {
        all.insert(0, api.run(r#"{"input": 1}"#).await);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let (mut found, mut query) = (Vec::new(), String::new());
    loop {
        let page = search(&query).await;
        found.extend(ids(&page));
        match page["next"].as_u64() {
            Some(next) => query = format!("before={next}"),
            None => break,
        }
    }
    assert_eq!(found, all, "each once, newest first");

    let failed = api.take("gpu-7").await;
    api.done("gpu-7", &failed, r#"{"error": "CUDA out of memory"}"#).await;
    for query in ["status=FAILED", "text=OUT+OF", "text=gpu-7", &format!("text={failed}")] {
        let page = search(query).await;
        assert_eq!((ids(&page), page.get("next")), (vec![failed.clone()], None), "{query}");
        assert_eq!(page["jobs"][0]["error"], "CUDA out of memory");
    }
    assert_eq!(ids(&search("text=nowhere").await), Vec::<String>::new());
    assert_eq!(ids(&search("status=FAILED&text=other").await), Vec::<String>::new());
    let page = search("").await;
    let submitted = |index: usize| page["jobs"][index]["submittedAt"].as_u64().unwrap();
    let (from, until) = (submitted(20), submitted(10));
    assert_eq!(ids(&search(&format!("from={from}&until={until}")).await), all[11..=20]);
    let (status, _, body) = get(&router, "/console/other/history").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(axum::body::to_bytes(body, usize::MAX).await.unwrap(), r#"{"jobs":[]}"#);
}
