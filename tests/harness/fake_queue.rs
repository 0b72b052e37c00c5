//! A queue that answers from a script: for faults that a real endpoint does not have on demand.
//!
//! job-take and job-stop without a scripted reply are held open until one is added, like the long polls they are. Every other
//! route answers 200 unless scripted.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use futures_util::stream::unfold;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::faulty_proxy::break_connection;
use crate::{eventually, free_port, worker_env};

/// Largest request that is kept.
const MAX_BODY: usize = 128 * 1024 * 1024;

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delivery: Delivery,
    after: Duration,
}

#[derive(Clone, Debug)]
enum Delivery {
    Whole,
    /// In pieces of this many bytes, with a pause after each.
    Pieces(usize, Duration),
    /// The connection breaks after the body, of which more was promised.
    Cut,
    /// Not even a status line.
    Never,
    /// The connection breaks instead of an answer.
    Broken,
}

impl Reply {
    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), delivery: Delivery::Whole, after: Duration::ZERO }
    }

    /// 200 with a body of this media type.
    pub fn text(media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }.header("content-type", media_type)
    }

    /// 200 with JSON text.
    pub fn json(body: impl Into<Vec<u8>>) -> Self {
        Self::text("application/json", body)
    }

    /// 200 with one job.
    pub fn job(id: &str, input: &Value) -> Self {
        Self::json(json!({"id": id, "input": input}).to_string())
    }

    /// The request is read and never answered.
    pub fn never() -> Self {
        Self { delivery: Delivery::Never, ..Self::status(200) }
    }

    /// The request is read, and the connection breaks instead of an answer.
    pub fn broken() -> Self {
        Self { delivery: Delivery::Broken, ..Self::status(200) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits before the status line.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// Sends the body in pieces of `size` bytes with a pause after each.
    #[must_use]
    pub fn slowly(self, size: usize, pause: Duration) -> Self {
        Self { delivery: Delivery::Pieces(size, pause), ..self }
    }

    /// Promises more bytes than the body has and breaks the connection.
    #[must_use]
    pub fn cut(self) -> Self {
        let promised = (self.body.len() + 100).to_string();
        Self { delivery: Delivery::Cut, ..self }.header("content-length", &promised)
    }
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// `job-take`, `job-take-batch`, `job-stop`, `job-done`, `job-stream` or `ping`.
    pub route: String,
    /// The worker that the URL names.
    pub worker: Option<String>,
    /// The job, on routes that name one.
    pub job: Option<String>,
    /// Query string.
    pub query: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as text.
    pub body: String,
    /// Status that it was answered with, once it was.
    pub status: Option<u16>,
}

#[derive(Default)]
struct Script {
    takes: VecDeque<Reply>,
    stops: VecDeque<Reply>,
    dones: VecDeque<Reply>,
    /// The answer to job-done when none is scripted.
    every_done: Option<Reply>,
    pings: VecDeque<Reply>,
    seen: Vec<Seen>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    added: Notify,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock()
    }
}

/// The queue. It can be taken down and brought up again at the same address.
pub struct FakeQueue {
    port: u16,
    shared: Arc<Shared>,
    /// A runtime of its own, so that taking it down breaks every connection.
    runtime: Option<Runtime>,
}

impl fmt::Debug for FakeQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeQueue").field("port", &self.port).finish_non_exhaustive()
    }
}

impl FakeQueue {
    /// A queue that is up.
    pub fn start() -> Self {
        let mut queue = Self { port: 0, shared: Arc::default(), runtime: None };
        queue.bring_up();
        queue
    }

    /// A queue that refuses connections.
    pub fn down() -> Self {
        Self { port: free_port(), shared: Arc::default(), runtime: None }
    }

    /// Accepts connections from now on. Without a port the system chooses one.
    ///
    /// # Panics
    /// When its port was taken meanwhile.
    pub fn bring_up(&mut self) {
        let router = Router::new().fallback(answer).with_state(Arc::clone(&self.shared));
        let serve = || -> io::Result<(Runtime, u16)> {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let listener = std::net::TcpListener::bind(("127.0.0.1", self.port))?;
            let port = listener.local_addr()?.port();
            listener.set_nonblocking(true)?;
            runtime.spawn(async move {
                if let Ok(listener) = TcpListener::from_std(listener) {
                    let _ = axum::serve(listener, router).await;
                }
            });
            Ok((runtime, port))
        };
        let (runtime, port) = serve().unwrap_or_else(|error| panic!("cannot serve a queue: {error}"));
        (self.runtime, self.port) = (Some(runtime), port);
    }

    /// Breaks every connection and refuses new ones.
    pub async fn take_down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let address = ("127.0.0.1", self.port);
        eventually("the queue to be down", || async { tokio::net::TcpStream::connect(address).await.err() }).await;
    }

    /// `http://127.0.0.1:PORT/v2/test`.
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}/v2/test", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The variables that the platform would set for worker `worker-1`.
    pub fn worker_env(&self) -> Vec<(String, String)> {
        worker_env(&self.base(), "worker-1")
    }

    /// Scripts the next answer to job-take or job-take-batch.
    pub fn take(&self, reply: Reply) {
        self.shared.script().takes.push_back(reply);
        self.shared.added.notify_waiters();
    }

    /// Scripts the next answer to job-take: this job.
    pub fn job(&self, id: &str, input: &Value) {
        self.take(Reply::job(id, input));
    }

    /// Scripts the next answer to job-stop.
    pub fn stop(&self, reply: Reply) {
        self.shared.script().stops.push_back(reply);
        self.shared.added.notify_waiters();
    }

    /// Scripts the next answer to job-done.
    pub fn done(&self, reply: Reply) {
        self.shared.script().dones.push_back(reply);
    }

    /// Answers every job-done that has no scripted answer like this from now on; `None` accepts them, as at first.
    pub fn every_done(&self, reply: Option<Reply>) {
        self.shared.script().every_done = reply;
    }

    /// Forgets the scripted answers to job-take that no poll has got yet; returns how many there were.
    pub fn clear_takes(&self) -> usize {
        self.shared.script().takes.drain(..).count()
    }

    /// Scripts the next answer to a ping.
    pub fn ping(&self, reply: Reply) {
        self.shared.script().pings.push_back(reply);
    }

    /// Everything that came on this route so far. `job-take` includes `job-take-batch`.
    pub fn seen(&self, route: &str) -> Vec<Seen> {
        let fits = |seen: &&Seen| seen.route == route || (route == "job-take" && seen.route == "job-take-batch");
        self.shared.script().seen.iter().filter(fits).cloned().collect()
    }

    /// The routes of all requests so far.
    pub fn routes(&self) -> BTreeSet<String> {
        self.shared.script().seen.iter().map(|seen| seen.route.clone()).collect()
    }

    /// Waits for a request on this route for which `wanted` holds.
    pub async fn sees(&self, route: &str, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        eventually(&format!("{route}: {what}"), || async { self.seen(route).into_iter().find(|seen| wanted(seen)) })
            .await
    }

    /// The bodies of all accepted final results of a job.
    pub fn results(&self, job: &str) -> Vec<Value> {
        let accepted = |seen: &Seen| {
            let body: Value = serde_json::from_str(&seen.body).ok()?;
            let fits = seen.job.as_deref() == Some(job) && seen.status.is_some_and(|status| status < 300);
            (fits && body["status"] != "IN_PROGRESS").then_some(body)
        };
        self.seen("job-done").iter().filter_map(accepted).collect()
    }

    /// The jobs that have an accepted final result.
    pub fn delivered(&self) -> BTreeSet<String> {
        let jobs: BTreeSet<String> = self.seen("job-done").into_iter().filter_map(|seen| seen.job).collect();
        jobs.into_iter().filter(|job| !self.results(job).is_empty()).collect()
    }

    /// Waits for the accepted final result of a job.
    pub async fn result(&self, job: &str) -> Value {
        eventually(&format!("the result of {job}"), || async { self.results(job).pop() }).await
    }
}

impl Drop for FakeQueue {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap_or_default();
    // /v2/{endpoint}/{route}/{worker}[/{job}]
    let segments: Vec<&str> = parts.uri.path().split('/').skip(3).collect();
    let route = segments.first().copied().unwrap_or_default().to_owned();
    let index = {
        let mut script = shared.script();
        script.seen.push(Seen {
            at: Instant::now(),
            route: route.clone(),
            worker: segments.get(1).map(|worker| (*worker).to_owned()),
            job: segments.get(2).map(|job| (*job).to_owned()),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            status: None,
        });
        script.seen.len() - 1
    };
    let reply = match route.as_str() {
        "job-take" | "job-take-batch" => held(&shared, |script| &mut script.takes).await,
        "job-stop" => held(&shared, |script| &mut script.stops).await,
        "job-done" => {
            let mut script = shared.script();
            script.dones.pop_front().or_else(|| script.every_done.clone()).unwrap_or_else(|| Reply::json("{}"))
        }
        "ping" => shared.script().pings.pop_front().unwrap_or_else(|| Reply::json("{}")),
        _ => Reply::json("{}"),
    };
    sleep(reply.after).await;
    match reply.delivery {
        Delivery::Never => std::future::pending().await,
        Delivery::Broken => break_connection(),
        Delivery::Whole | Delivery::Pieces(..) | Delivery::Cut => {}
    }
    if let Some(seen) = shared.script().seen.get_mut(index) {
        seen.status = Some(reply.status);
    }
    response(reply)
}

/// The next scripted reply, as soon as there is one.
async fn held(shared: &Shared, replies: fn(&mut Script) -> &mut VecDeque<Reply>) -> Reply {
    loop {
        let added = shared.added.notified();
        if let Some(reply) = replies(&mut shared.script()).pop_front() {
            return reply;
        }
        added.await;
    }
}

fn response(reply: Reply) -> Response<Body> {
    let body = match reply.delivery {
        Delivery::Whole | Delivery::Never | Delivery::Broken => Body::from(reply.body),
        Delivery::Pieces(size, pause) => Body::from_stream(unfold(reply.body, move |mut rest| async move {
            if rest.is_empty() {
                return None;
            }
            sleep(pause).await;
            let later = rest.split_off(size.min(rest.len()));
            Some((Ok::<_, io::Error>(rest), later))
        })),
        Delivery::Cut => Body::from_stream(unfold(Some(reply.body), |body| async move {
            match body {
                Some(body) => Some((Ok(body), None)),
                None => {
                    // The bytes before the break are to arrive.
                    sleep(Duration::from_millis(50)).await;
                    Some((Err(io::Error::other("cut as scripted")), None))
                }
            }
        })),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or_default();
    for (name, value) in reply.headers {
        if let (Ok(name), Ok(value)) = (axum::http::HeaderName::try_from(name), value.parse()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
