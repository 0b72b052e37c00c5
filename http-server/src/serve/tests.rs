use std::net::SocketAddr;

use axum::body::{Body, to_bytes};
use axum::routing::{get, post};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::*;

/// A limit for whatever must happen.
const SOON: Duration = Duration::from_secs(20);

fn limits() -> ServerLimits {
    ServerLimits {
        max_connections: 4,
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_secs(60),
        body_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(300),
        keepalive: Duration::from_secs(60),
        max_header_bytes: 16 << 10,
    }
}

struct Running {
    address: SocketAddr,
    counts: Arc<ServerCounts>,
    release: Arc<Notify>,
    _stop: tokio_util::sync::DropGuard,
}

/// `/` answers at once, `/refused` with 403, `/held` when it is released, `/large` with 64 MiB, `/echo` with the length of the body, `/late` reads the body
/// after a second.
async fn start(limits: ServerLimits) -> Running {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let length = |body: Body| async {
        to_bytes(body, usize::MAX).await.map(|bytes| bytes.len().to_string()).unwrap_or_default()
    };
    let late = move |body: Body| async move {
        sleep(Duration::from_secs(1)).await;
        length(body).await
    };
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/refused", post(|| async { StatusCode::FORBIDDEN }))
        .route("/held", get(move || async move { held.notified().await }))
        .route("/large", get(|| async { Bytes::from(vec![b'x'; 64 << 20]) }))
        .route("/echo", post(length))
        .route("/late", post(late));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = HttpServer::new("test", limits);
    let (counts, stop) = (server.counts(), CancellationToken::new());
    let shutdown = stop.clone();
    tokio::spawn(async move { server.serve(listener, router, &shutdown).await });
    Running { address, counts, release, _stop: stop.drop_guard() }
}

impl Running {
    async fn send(&self, text: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        socket
    }

    async fn get(&self, path: &str) -> String {
        rest(self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await).await
    }

    fn refused(&self, reason: Refusal) -> u64 {
        self.counts.refused()[reason as usize].1
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.counts));
    }
}

/// Everything until the end; a reset counts as the end.
async fn rest(mut socket: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(SOON, socket.read_to_end(&mut bytes)).await.expect("the connection must end");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_new_connection_replaces_the_one_that_has_been_idle_longest() {
    let server = start(limits()).await;
    let mut idle = Vec::new();
    for number in 0..4 {
        // Kept alive after a request.
        let mut socket = server.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut some = [0; 512];
        assert!(socket.read(&mut some).await.unwrap() > 0, "{number}");
        idle.push(socket);
        server.until("the connection to be counted", |server| server.counts.open() == number + 1).await;
    }
    assert!(server.get("/").await.ends_with("here"));
    assert_eq!(server.refused(Refusal::Evicted), 1);
    assert_eq!(rest(idle.remove(0)).await, "", "the first one made room");
    idle[0].write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(idle.remove(0)).await.ends_with("here"), "the others stay");
}

#[tokio::test]
async fn connections_that_never_send_anything_keep_nobody_out() {
    let server = start(ServerLimits { header_timeout: SOON, ..limits() }).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(server.get("/").await.ends_with("here"));
    assert!(server.counts.open() <= 4 && server.refused(Refusal::Evicted) >= 46, "{:?}", server.counts);
}

#[tokio::test]
async fn while_all_connections_are_being_answered_a_new_one_is_told_to_come_back() {
    let server = start(limits()).await;
    let mut held = Vec::new();
    for number in 0..4 {
        held.push(server.send("GET /held HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await);
        server.until("the connection to be counted", |server| server.counts.open() == number + 1).await;
    }
    // Requests that are being answered are never cut off.
    sleep(limits().header_timeout * 3).await;
    let refused = server.get("/").await;
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1") && refused.ends_with("503}"),
        "{refused}"
    );
    assert_eq!(server.refused(Refusal::Full), 1);
    server.release.notify_waiters();
    for socket in held {
        assert!(rest(socket).await.starts_with("HTTP/1.1 200 "));
    }
    server.until("the places to be free", |server| server.counts.open() == 0).await;
    assert!(server.get("/").await.ends_with("here"));
}

#[tokio::test]
async fn a_header_that_does_not_arrive_is_not_waited_for() {
    let server = start(limits()).await;
    for begin in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let started = Instant::now();
        assert_eq!(rest(server.send(begin).await).await, "");
        assert!(started.elapsed() < Duration::from_secs(5), "{begin:?}");
    }
    assert_eq!(server.refused(Refusal::HeaderTimeout), 3);
}

#[tokio::test]
async fn a_header_that_arrives_byte_by_byte_has_no_more_time() {
    let server = start(limits()).await;
    let mut socket = server.send("GET / HTTP/1.1\r\nx: ").await;
    let started = Instant::now();
    while socket.write_all(b"x").await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(10), "the connection is still open");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.refused(Refusal::HeaderTimeout), 1);
}

#[tokio::test]
async fn a_kept_alive_connection_may_wait_longer_than_a_header() {
    let server = start(limits()).await;
    let mut socket = server.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut some = [0; 512];
    assert!(socket.read(&mut some).await.unwrap() > 0);
    sleep(limits().header_timeout * 3).await;
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(socket).await.ends_with("here"));
}

#[tokio::test]
async fn the_size_of_a_header_is_checked_while_it_is_read() {
    let server = start(limits()).await;
    for header in
        [format!("x: {}", "y".repeat(30 << 10)), "x: y\r\n".repeat(6 << 10), format!("GET /{} ", "z".repeat(30 << 10))]
    {
        // It never ends.
        let reply = rest(server.send(&format!("GET / HTTP/1.1\r\n{header}")).await).await;
        assert!(
            reply.is_empty() || reply.starts_with("HTTP/1.1 431 ") || reply.starts_with("HTTP/1.1 400 "),
            "{reply}"
        );
    }
    assert!(server.refused(Refusal::HeaderTooLarge) >= 2, "{:?}", server.counts);
    assert_eq!(server.refused(Refusal::HeaderTimeout), 0, "nothing was waited for");
}

#[tokio::test]
async fn a_reader_that_stalls_is_cut_off_and_a_slow_one_is_not() {
    let server = start(limits()).await;
    let request = "GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let stalled = server.send(request).await;
    server.until("the stalled reader to be cut off", |server| server.refused(Refusal::WriteStalled) == 1).await;
    drop(stalled);
    let mut slow = server.send(request).await;
    let (mut read, mut some) = (0, vec![0; 2 << 20]);
    loop {
        sleep(Duration::from_millis(10)).await;
        match timeout(SOON, slow.read(&mut some)).await.unwrap() {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) => panic!("cut off after {read} bytes: {error}"),
        }
    }
    assert!(read > 64 << 20);
    assert_eq!(server.refused(Refusal::WriteStalled), 1);
}

#[tokio::test]
async fn a_body_that_stalls_is_cut_off_and_one_that_nobody_reads_yet_is_not() {
    let server = start(limits()).await;
    let head =
        |path: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\n12345");
    assert_eq!(rest(server.send(&head("/echo")).await).await, "");
    assert_eq!(server.refused(Refusal::BodyStalled), 1);
    let mut patient = server.send(&head("/late")).await;
    sleep(limits().body_timeout * 2).await;
    patient.write_all(b"67890").await.unwrap();
    assert!(rest(patient).await.ends_with("10"));
    assert_eq!(server.refused(Refusal::BodyStalled), 1);
}

#[tokio::test]
async fn a_client_that_sends_a_large_body_sees_why_it_was_refused_early() {
    const BYTES: usize = 40 << 20;
    let running = start(limits()).await;
    for _ in 0..4 {
        let head = format!("POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: {BYTES}\r\n\r\n");
        let mut socket = running.send(&head).await;
        for _ in 0..BYTES >> 20 {
            socket.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        }
        // The next request on the same connection is answered too.
        socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let answers = rest(socket).await;
        assert!(answers.starts_with("HTTP/1.1 403") && answers.ends_with("here"), "{answers}");
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_refused_without_it() {
    let running = start(limits()).await;
    let head = "POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n";
    assert!(rest(running.send(head).await).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_request_whose_body_stalls_makes_room_after_a_while() {
    let server = start(ServerLimits { body_timeout: SOON, ..limits() }).await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(server.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n1").await);
    }
    server.until("the connections to be counted", |server| server.counts.open() == 4).await;
    let answered = async {
        while !server.get("/").await.ends_with("here") {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, answered).await.unwrap();
    assert_eq!(server.refused(Refusal::Evicted), 1);
}

#[tokio::test]
async fn a_reset_sends_nothing_of_the_response() {
    let router = Router::new().route(
        "/",
        get(|ConnectInfo(connection): ConnectInfo<Connection>| async move {
            connection.reset();
            Ok::<_, Infallible>("never sent")
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        async move { HttpServer::new("test", limits()).serve(listener, router, &CancellationToken::new()).await },
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let error = socket.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn whoever_has_connected_before_the_server_stops_gets_an_answer() {
    let router = Router::new().route("/", get(|| async { "here" }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        sockets.push(socket);
    }
    let silent = TcpStream::connect(address).await.unwrap();
    timeout(SOON, HttpServer::new("test", limits()).serve(listener, router, &stop)).await.unwrap();
    for socket in sockets {
        let answer = rest(socket).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer:?}");
    }
    assert_eq!(rest(silent).await, "");
    TcpStream::connect(address).await.unwrap_err();
}
