//! Accepts connections and serves them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::http::header::EXPECT;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::connection::Connection;
use crate::counts::{Refusal, ServerCounts};
use crate::limits::ServerLimits;
use crate::phase::{Activity, Phase};
use crate::rest::lend;
use crate::stream::GuardedStream;
use crate::table::{Admitted, Table};
use crate::tracked::{Part, TrackedBody};

/// How long open requests may take to end once the server stops.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// How long a new connection may take for its first request once the server stops: it is on its way already.
const FIRST_REQUEST: Duration = Duration::from_millis(300);

/// Connections that were made before the server stopped and are accepted afterwards.
const MAX_LATE: usize = 128;

/// Longest time between two checks of the connections' timeouts.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after an error of `accept`, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of a header beyond the limit that are still read, so that the router can answer with a document of its own.
const HEADER_SLACK: usize = 8 << 10;

/// Refused connections that are kept open at the same time until their client has read why.
const MAX_REFUSALS: usize = 64;
/// How long each of them is kept open.
const REFUSAL_TIME: Duration = Duration::from_millis(300);

/// Questions without an answer after which a client is gone.
const KEEPALIVE_PROBES: u32 = 4;

/// The body of the answer when all connections are in use.
const FULL: &str = r#"{"error":"all connections of this server are in use; try again in 1 s","status":503}"#;

/// A server and its counters.
#[derive(Debug, Clone)]
pub struct HttpServer {
    name: &'static str,
    limits: ServerLimits,
    counts: Arc<ServerCounts>,
}

impl HttpServer {
    /// A server that keeps to these limits. Its log lines carry its name.
    #[must_use]
    pub fn new(name: &'static str, limits: ServerLimits) -> Self {
        Self { name, limits, counts: Arc::default() }
    }

    /// Its counters.
    #[must_use]
    pub fn counts(&self) -> Arc<ServerCounts> {
        Arc::clone(&self.counts)
    }

    /// Serves until `shutdown` is cancelled, then waits at most 5 s for open requests. Whoever has connected before that gets an answer.
    pub async fn serve(self, listener: TcpListener, router: Router, shutdown: &CancellationToken) {
        let table = Table::new(self.limits, Arc::clone(&self.counts));
        let sweeping = CancellationToken::new();
        tokio::spawn(sweep(Arc::clone(&table), self.limits, self.name, sweeping.clone()));
        // Each connection holds a sender: once all are dropped, all connections have ended.
        let closing = CancellationToken::new();
        let (open, mut all_ended) = mpsc::channel::<()>(1);
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let begin = |stream: TcpStream| match table.admit() {
            Some(admitted) => {
                let (router, closing, open) = (router.clone(), closing.clone(), open.clone());
                tokio::spawn(async move {
                    serve_connection(stream, admitted, router, self.limits, closing).await;
                    drop(open);
                });
            }
            None => refuse(stream, &refusals),
        };
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => begin(stream),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    if has_no_descriptor(&error) {
                        table.free_descriptor();
                    }
                    tracing::debug!(server = self.name, %error, "Cannot accept a connection. Trying again.");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        late(listener).for_each(begin);
        drop(open);
        closing.cancel();
        // What has not ended by then is cut off when the program ends.
        let _ = timeout(CLOSE_GRACE, all_ended.recv()).await;
        sweeping.cancel();
        self.counts.log(self.name);
    }
}

/// Closes the socket; the connections that were made and not accepted yet. Without this they would be reset.
fn late(listener: TcpListener) -> impl Iterator<Item = TcpStream> {
    let listener = listener.into_std();
    let accept = move || {
        let (stream, _) = listener.as_ref().ok()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    };
    std::iter::from_fn(accept).take(MAX_LATE)
}

/// Closes connections whose time is over, and logs what was refused.
async fn sweep(table: Arc<Table>, limits: ServerLimits, name: &'static str, stop: CancellationToken) {
    let shortest = limits.header_timeout.min(limits.idle_timeout).min(limits.body_timeout);
    let mut ticks = interval((shortest / 4).clamp(Duration::from_millis(1), SWEEP_INTERVAL));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        table.sweep();
        table.counts().log(name);
    }
}

/// Serves one connection until it ends or must be closed. Once `closing` is cancelled, it ends after the request that it serves. A
/// connection that is upgraded goes on without this server, which counts it for as long as its socket is open.
async fn serve_connection(
    stream: TcpStream,
    admitted: Admitted,
    router: Router,
    limits: ServerLimits,
    closing: CancellationToken,
) {
    // Without this the second half of a small answer waits for the acknowledgement of the first: 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "A connection delays small packets.");
    }
    if let Err(error) = keep_alive(&stream, limits.keepalive) {
        tracing::debug!(%error, "It is not looked at whether the client of a connection is still there.");
    }
    let (handle, admitted) = (Connection::default(), Arc::new(admitted));
    let (current, counts) = (Arc::clone(&admitted.activity), Arc::clone(admitted.counts()));
    let activity = Arc::clone(&current);
    let stream = GuardedStream::new(stream, admitted, handle.clone(), limits.write_timeout);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let activity = Arc::clone(&activity);
        activity.enter(Phase::Answer);
        request.extensions_mut().insert(ConnectInfo(handle.clone()));
        let (head, body) = request.into_parts();
        let body = TrackedBody { inner: body, activity: Arc::clone(&activity), part: Part::Request };
        let (body, rest) = lend(body, head.headers.contains_key(EXPECT));
        let answer = router.clone().oneshot(Request::from_parts(head, body));
        async move {
            let answer = answer.await?;
            if answer.status().is_client_error() || answer.status().is_server_error() {
                rest.discard().await;
            }
            let part = match answer.status() {
                StatusCode::SWITCHING_PROTOCOLS => {
                    activity.enter(Phase::Upgraded);
                    Part::Upgrade
                }
                _ => Part::Answer,
            };
            Ok::<_, Infallible>(answer.map(|inner| TrackedBody { inner, activity, part }))
        }
    });
    let mut http = http1::Builder::new();
    // The table keeps the time of headers: hyper's timeout would include the wait for the next request.
    http.timer(TokioTimer::new()).header_read_timeout(None);
    http.max_header_size(limits.max_header_bytes + HEADER_SLACK);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut is_closing = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    if error.is_parse_too_large() {
                        counts.add(Refusal::HeaderTooLarge);
                    }
                    tracing::debug!(%error, "A connection ended early.");
                }
                return;
            }
            () = is_to_end(&closing, &current), if !is_closing => {
                is_closing = true;
                serving.as_mut().graceful_shutdown();
            }
            () = current.closed() => return,
        }
    }
}

/// Has the kernel ask a client that sends nothing whether it is still there: a machine that has vanished closes no connection.
fn keep_alive(stream: &TcpStream, after: Duration) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, after)?;
    sockopt::set_tcp_keepintvl(stream, (after / KEEPALIVE_PROBES).max(Duration::from_secs(1)))?;
    Ok(sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?)
}

/// Waits until a connection is to end after the request that it serves.
async fn is_to_end(closing: &CancellationToken, activity: &Activity) {
    closing.cancelled().await;
    if activity.is_new() {
        sleep(FIRST_REQUEST).await;
    }
}

/// Answers that all connections are in use, and closes.
fn refuse(stream: TcpStream, refusals: &Arc<Semaphore>) {
    let Ok(permit) = Arc::clone(refusals).try_acquire_owned() else { return };
    tokio::spawn(async move {
        let _permit = permit;
        // Closing a socket with unread bytes resets it, and the client would not see the answer.
        let answer = async {
            let mut stream = stream;
            let head = format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 retry-after: 1\r\nconnection: close\r\n\r\n",
                FULL.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(FULL.as_bytes()).await?;
            stream.shutdown().await?;
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(REFUSAL_TIME, answer).await;
    });
}

/// Whether the error concerns the accepted connection only.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn has_no_descriptor(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests;
