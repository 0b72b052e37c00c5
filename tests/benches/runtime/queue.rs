//! The queue that all programs of the benchmark work on. It is in this process, on a thread of its own, and keeps counts instead
//! of jobs: `runpod-endpoint` remembers every job, which is work that would count against whoever it is measured with. The
//! report shows how busy its thread was, so that a figure that the queue has limited can be told.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use axum::serve::ListenerExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::line::{Line, Taken};

/// Name of the thread of the queue.
pub(crate) const THREAD: &str = "bench-queue";
/// How long a poll without a job is held.
const HOLD: Duration = Duration::from_secs(20);
/// Answers up to this size are put together; larger ones are sent in parts, so that the payload is not copied for each job.
const WHOLE: usize = 64 * 1024;

/// The queue.
pub(crate) struct Queue {
    port: u16,
    lines: Arc<BTreeMap<String, Arc<Line>>>,
}

impl Queue {
    /// Starts a queue with one line of jobs for each of these names.
    pub(crate) fn start(names: &[String]) -> Result<Self> {
        let lines = Arc::new(names.iter().map(|name| (name.clone(), Arc::new(Line::default()))).collect());
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&lines));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            runtime.block_on(async move {
                // Without it the end of a large answer waits for the acknowledgement of its beginning.
                let listener = TcpListener::from_std(listener)?.tap_io(|stream| drop(stream.set_nodelay(true)));
                axum::serve(listener, router).await
            })
        })?;
        Ok(Self { port, lines })
    }

    /// The line of this name, and its URL: the part before `/job-take`.
    pub(crate) fn line(&self, name: &str) -> Result<(Arc<Line>, String)> {
        let line = self.lines.get(name).with_context(|| format!("there is no line {name}"))?;
        Ok((Arc::clone(line), format!("http://127.0.0.1:{}/v2/{name}", self.port)))
    }
}

/// Answers `/v2/{line}/{route}/{worker}[/{job}]`.
async fn answer(State(lines): State<Arc<BTreeMap<String, Arc<Line>>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut segments = parts.uri.path().split('/').skip(2);
    let line = segments.next().and_then(|name| lines.get(name));
    let (Some(line), Some(route)) = (line, segments.next()) else { return empty(StatusCode::NOT_FOUND) };
    match route {
        "job-take" => take(line, 1).await,
        "job-take-batch" => take(line, batch_size(parts.uri.query().unwrap_or_default())).await,
        "job-stop" => {
            tokio::time::sleep(HOLD).await;
            empty(StatusCode::NO_CONTENT)
        }
        "job-done" => {
            read(body).await;
            line.finish();
            json(Body::from("{}"), 2)
        }
        "job-stream" if line.times_items() => {
            if let Some(millis) = axum::body::to_bytes(body, WHOLE).await.ok().and_then(|body| age(&body)) {
                line.item(millis);
            }
            json(Body::from("{}"), 2)
        }
        _ => {
            read(body).await;
            json(Body::from("{}"), 2)
        }
    }
}

/// How long ago the time of day was that is in this item, in milliseconds.
fn age(body: &[u8]) -> Option<f64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let text = str::from_utf8(body).ok()?.strip_prefix("{\"output\":")?.strip_suffix('}')?;
    Some((now.as_micros() as f64 - text.parse::<f64>().ok()?) / 1000.0)
}

fn batch_size(query: &str) -> u64 {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("batch_size="));
    value.and_then(|value| value.parse().ok()).unwrap_or(1)
}

async fn take(line: &Line, most: u64) -> Response<Body> {
    let Ok(Taken { ids, tail }) = timeout(HOLD, line.take(most)).await else { return empty(StatusCode::NO_CONTENT) };
    let is_list = most > 1;
    let mut parts: Vec<Bytes> = Vec::new();
    for (index, id) in ids.into_iter().enumerate() {
        let open = match (is_list, index) {
            (false, _) => "",
            (true, 0) => "[",
            (true, _) => ",",
        };
        parts.push(format!("{open}{{\"id\":\"job-{id}").into());
        parts.push(tail.clone());
    }
    if is_list {
        parts.push(Bytes::from_static(b"]"));
    }
    let len = parts.iter().map(Bytes::len).sum();
    if len <= WHOLE {
        return json(Body::from(parts.concat()), len);
    }
    json(Body::from_stream(iter(parts.into_iter().map(Ok::<_, io::Error>))), len)
}

/// Reads a body to its end and forgets it.
async fn read(body: Body) {
    let mut parts = body.into_data_stream();
    while let Some(Ok(_)) = parts.next().await {}
}

fn json(body: Body, len: usize) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, len.into());
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
