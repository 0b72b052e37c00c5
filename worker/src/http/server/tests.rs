//! A server under attack, on a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

async fn start(max_connections: usize) -> (SocketAddr, NamedCounts, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, counts) = server("test", max_connections);
    let routes = Router::new().route("/live", get(|| async { "live" })).route("/job", post(|| async { "job" }));
    let over = CancellationToken::new();
    tokio::spawn(serve(server, listener, routes, over.clone()));
    (address, counts, over)
}

/// Sends a request and returns the answer.
async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an answer in time").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn refused(counts: &NamedCounts, reason: &str) -> u64 {
    counts.1.refused().iter().find(|(name, _)| *name == reason).unwrap().1
}

#[tokio::test]
async fn idle_connections_and_half_headers_make_room_for_a_probe() {
    let (address, counts, _over) = start(64).await;
    let mut idle = Vec::new();
    for number in 0..260 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            // Some of them have begun a header. The server may have closed the connection already.
            let _ = stream.write_all(b"GET /live HTTP/1.1\r\nHost: loc").await;
        }
        idle.push(stream);
    }
    let answer = ask(address, b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(counts.1.open() <= 64, "{} connections are open", counts.1.open());
    assert!(refused(&counts, "evicted") + refused(&counts, "full") > 0);
}

#[tokio::test]
async fn a_large_header_is_refused_while_it_is_read() {
    let (address, counts, _over) = start(64).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut sent = 0;
    let _ = stream.write_all(b"GET /live HTTP/1.1\r\nX: ").await;
    // Writing fails once the server has closed the connection.
    while sent < 1 << 20 && stream.write_all(&[b'x'; 4096]).await.is_ok() {
        sent += 4096;
    }
    let closed = timeout(SOON, async {
        while refused(&counts, "header_too_large") == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    closed.await.expect("the header is refused and counted");
}

#[tokio::test]
async fn a_web_page_cannot_call_a_server_without_keys() {
    let (address, _counts, _over) = start(64).await;
    let post = |headers: &str| {
        format!("POST /job HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    };
    for headers in ["Host: localhost\r\n", "Host: 127.0.0.1:8000\r\n", "Host: a\r\nSec-Fetch-Site: none\r\n"] {
        let answer = ask(address, &post(headers)).await;
        let expected = if headers.contains("Host: a") { "HTTP/1.1 403" } else { "HTTP/1.1 200" };
        assert!(answer.starts_with(expected), "{headers}: {answer}");
    }
    for headers in [
        "Host: evil.example\r\n",
        "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
        "Host: localhost\r\nOrigin: https://evil.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
    ] {
        let answer = ask(address, &post(headers)).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{headers}: {answer}");
    }
    let not_utf8 = b"POST /job HTTP/1.1\r\nHost: \xff\xfe\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let answer = ask(address, not_utf8).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}
