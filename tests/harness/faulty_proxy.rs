//! A proxy between worker and endpoint that injects faults: it delays requests, refuses them, and breaks connections before or
//! after the endpoint has seen the request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Largest message that passes.
const MAX_BODY: usize = 128 * 1024 * 1024;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Passed on late.
    Late(u64),
    /// 503 without being passed on.
    Unavailable,
    /// The connection breaks, and the request is not passed on.
    BrokenBefore,
    /// Passed on; the connection breaks before the answer.
    BrokenAfter,
}

struct Shared {
    target: String,
    http: reqwest::Client,
    state: Mutex<Traffic>,
}

/// What the proxy knows of the traffic.
#[derive(Default)]
struct Traffic {
    rng: fastrand::Rng,
    /// Percentage of the requests that are given a fault.
    faults: u8,
    /// Final results that the endpoint has acknowledged, for each job. Those of a job that it handed out although it had the
    /// result are not among them: they are not used, and they may differ.
    finals: BTreeMap<String, Vec<Value>>,
    /// Jobs that were handed out although the endpoint had their results.
    redelivered: BTreeSet<String>,
    /// How many stop requests for each job reached the worker.
    stops: BTreeMap<String, u32>,
    /// Jobs that were in an answer which did not reach the worker.
    lost: BTreeSet<String>,
    /// How many requests to hand each job back the endpoint has accepted.
    handed_back: BTreeMap<String, u32>,
    requests: u64,
    faulted: u64,
}

/// The proxy.
#[derive(Clone)]
pub struct FaultyProxy {
    port: u16,
    shared: Arc<Shared>,
}

impl fmt::Debug for FaultyProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyProxy").field("port", &self.port).finish_non_exhaustive()
    }
}

impl FaultyProxy {
    /// Starts one in front of `target`, such as `http://127.0.0.1:8000`, with this seed and this percentage of faults.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(target: &str, seed: u64, faults: u8) -> Self {
        let state = Traffic { rng: fastrand::Rng::with_seed(seed), faults, ..Traffic::default() };
        let shared = Shared { target: target.to_owned(), http: reqwest::Client::new(), state: Mutex::new(state) };
        let shared = Arc::new(shared);
        let router = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let serve = async || -> std::io::Result<u16> {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let port = listener.local_addr()?.port();
            tokio::spawn(async move { axum::serve(listener, router).await });
            Ok(port)
        };
        let port = serve().await.unwrap_or_else(|error| panic!("cannot start a proxy: {error}"));
        Self { port, shared }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes the percentage of faults.
    pub fn set_faults(&self, percent: u8) {
        self.shared.state().faults = percent;
    }

    /// Final results that the endpoint has acknowledged, for each job, except those of a job that was over before.
    pub fn finals(&self) -> BTreeMap<String, Vec<Value>> {
        self.shared.state().finals.clone()
    }

    /// Whether this job was in an answer that did not reach the worker. It happens to a job once at most.
    pub fn has_lost(&self, job: &str) -> bool {
        self.shared.state().lost.contains(job)
    }

    /// How many stop requests for this job reached the worker.
    pub fn stops(&self, job: &str) -> u32 {
        self.shared.state().stops.get(job).copied().unwrap_or_default()
    }

    /// How many requests to hand back each job the endpoint has accepted.
    pub fn handed_back(&self) -> BTreeMap<String, u32> {
        self.shared.state().handed_back.clone()
    }

    /// The number of requests so far, and of those that were given a fault.
    pub fn traffic(&self) -> (u64, u64) {
        let state = self.shared.state();
        (state.requests, state.faulted)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Traffic> {
        self.state.lock()
    }

    fn draw(&self, route: &str) -> Fault {
        let mut state = self.state();
        state.requests += 1;
        // A few lost pings in a row would end a lease, which is not what is tested here.
        let percent = if route == "ping" { state.faults / 4 } else { state.faults };
        if state.rng.u8(0..100) >= percent {
            return Fault::None;
        }
        state.faulted += 1;
        match state.rng.u8(0..4) {
            0 => Fault::Late(state.rng.u64(10..400)),
            1 => Fault::Unavailable,
            2 => Fault::BrokenBefore,
            _ => Fault::BrokenAfter,
        }
    }

    /// Whether the answer to a take may be lost: the platform gives a job up that it had to hand out three times.
    fn may_lose(&self, body: &[u8]) -> bool {
        let ids = job_ids(body);
        let mut state = self.state();
        if ids.iter().any(|id| state.lost.contains(id)) {
            return false;
        }
        state.lost.extend(ids);
        true
    }

    /// Takes note of an answer that reaches the worker.
    fn note_answer(&self, route: &str, body: &[u8]) {
        let mut state = self.state();
        if route.starts_with("job-take") {
            let over = job_ids(body).into_iter().filter(|id| state.finals.contains_key(id)).collect::<Vec<_>>();
            state.redelivered.extend(over);
        } else if route == "job-stop" {
            let answer: Value = serde_json::from_slice(body).unwrap_or_default();
            for id in answer["jobsToStop"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                *state.stops.entry(id.to_owned()).or_default() += 1;
            }
        }
    }
}

fn job_ids(body: &[u8]) -> Vec<String> {
    let jobs = match serde_json::from_slice(body) {
        Ok(Value::Array(jobs)) => jobs,
        Ok(job @ Value::Object(_)) => vec![job],
        _ => Vec::new(),
    };
    jobs.iter().filter_map(|job| Some(job["id"].as_str()?.to_owned())).collect()
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mut segments = path.split('/').skip(3);
    let route = segments.next().unwrap_or_default().to_owned();
    let job = segments.nth(1).unwrap_or_default().to_owned();
    let body = to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let fault = shared.draw(&route);
    match fault {
        Fault::Unavailable => return status(StatusCode::SERVICE_UNAVAILABLE),
        Fault::BrokenBefore => break_connection(),
        Fault::Late(millis) => sleep(Duration::from_millis(millis)).await,
        Fault::None | Fault::BrokenAfter => {}
    }
    let url = format!("{}{}", shared.target, parts.uri);
    let mut onwards = shared.http.request(parts.method, url).body(body.clone());
    for (name, value) in &parts.headers {
        if !["host", "content-length", "accept-encoding"].contains(&name.as_str()) {
            onwards = onwards.header(name, value);
        }
    }
    let Ok(answer) = onwards.send().await else { return status(StatusCode::BAD_GATEWAY) };
    let (code, headers) = (answer.status(), answer.headers().clone());
    let Ok(bytes) = answer.bytes().await else { return status(StatusCode::BAD_GATEWAY) };
    match route.as_str() {
        "job-done" if code.is_success() => note_final(&shared, &job, &body),
        "hand-back" if code.is_success() => note_hand_back(&shared, &body),
        _ => {}
    }
    if fault == Fault::BrokenAfter && (!route.starts_with("job-take") || shared.may_lose(&bytes)) {
        break_connection();
    }
    shared.note_answer(&route, &bytes);
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    for (name, value) in &headers {
        if !["content-length", "transfer-encoding", "connection"].contains(&name.as_str()) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response
}

fn note_final(shared: &Shared, job: &str, body: &[u8]) {
    let Ok(result) = serde_json::from_slice::<Value>(body) else { return };
    let mut state = shared.state();
    if result["status"] != "IN_PROGRESS" && !state.redelivered.contains(job) {
        state.finals.entry(job.to_owned()).or_default().push(result);
    }
}

fn note_hand_back(shared: &Shared, body: &[u8]) {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut state = shared.state();
    for id in request["jobs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        *state.handed_back.entry(id.to_owned()).or_default() += 1;
    }
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

/// Ends the task of this connection, and the connection with it, without an answer and without a message on stderr.
pub(crate) fn break_connection() -> ! {
    std::panic::resume_unwind(Box::new(()))
}
