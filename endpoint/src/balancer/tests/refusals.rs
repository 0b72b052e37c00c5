//! Requests that get no answer of a worker, and what their clients are told.

use std::io;

use futures_util::stream;
use reqwest::Method;

use super::*;

/// So many bytes, in pieces of a megabyte.
fn pieces(bytes: usize) -> reqwest::Body {
    const PIECE: usize = 1_000_000;
    let sizes = std::iter::repeat_n(PIECE, bytes / PIECE).chain([bytes % PIECE]);
    reqwest::Body::wrap_stream(stream::iter(sizes.map(|size| io::Result::Ok(vec![b'x'; size]))))
}

#[tokio::test]
async fn a_body_of_unknown_length_that_is_too_large_is_answered_with_413_too() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 4, Keys::default()).await;
    front.all_ready().await;
    let post = async |bytes| {
        let reply = Client::new().post(&front.base).body(pieces(bytes)).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    };
    let (status, text) = post(limits::BODY).await;
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &seen["bytes"]), (200, &json!(limits::BODY)));
    for bytes in [limits::BODY + 1, limits::BODY + 10_000_000] {
        let (status, text) = post(bytes).await;
        assert_eq!(status, 413, "{text}");
        assert!(detail(&text).contains("30000000 bytes"), "{text}");
    }
    until("the place is free", || front.balancer.load().in_progress == 0).await;
}

#[tokio::test]
async fn whoever_is_refused_before_the_body_was_read_sees_why() {
    let worker = Worker::start().await;
    let keys = Keys { client: KeySet::new([Secret::from("k")]), ..Keys::default() };
    let front = front(&[&worker], 4, keys).await;
    front.all_ready().await;
    let refused = async |bytes: usize, key: &str, pin: &str, expected: u16| {
        let mut stream = TcpStream::connect(front.address).await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nx-runpod-worker-id: {pin}\r\n\
             connection: close\r\ncontent-length: {bytes}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; bytes]).await.unwrap();
        let mut reply = String::new();
        timeout(SOON, stream.read_to_string(&mut reply)).await.unwrap().unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {expected}")), "{reply}");
    };
    for _ in 0..3 {
        refused(limits::BODY + 1, "k", "", 413).await;
        refused(20_000_000, "x", "", 401).await;
        refused(20_000_000, "k", "strict nobody", 404).await;
    }
    front.store.set_paused("ep", true).await.unwrap();
    refused(20_000_000, "k", "", 503).await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_of_the_worker_and_one_of_unknown_length_is_cut_off() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 4, Keys::default()).await;
    front.all_ready().await;
    let ask =
        async |method, path: &str| Client::new().request(method, format!("{}{path}", front.base)).send().await.unwrap();
    let fits = ask(Method::GET, &format!("/large/{}", limits::BODY)).await;
    assert_eq!((fits.status().as_u16(), fits.bytes().await.unwrap().len()), (200, limits::BODY));
    let too_large = ask(Method::GET, &format!("/large/{}", limits::BODY + 1)).await;
    assert_eq!(too_large.status(), 502);
    assert!(detail(&too_large.text().await.unwrap()).contains("the worker's answer has more than 30000000 bytes"));
    let head = ask(Method::HEAD, &format!("/large/{}", limits::BODY + 1)).await;
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()), (200, "30000001"));
    let endless = ask(Method::GET, "/endless").await;
    assert_eq!(endless.status(), 200);
    endless.bytes().await.expect_err("it was cut off, and its client can tell");
    until("the places are free", || front.balancer.load().in_progress == 0).await;
}

#[tokio::test]
async fn a_paused_endpoint_refuses_new_requests_and_those_that_wait_and_finishes_the_others() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 1, Keys::default()).await;
    front.all_ready().await;
    let running = Client::new().get(format!("{}/stream", front.base)).send().await.unwrap();
    let pause = async {
        until("a request waits", || front.balancer.figures().waiting == 1).await;
        front.store.set_paused("ep", true).await.unwrap();
    };
    let (waiting, ()) = tokio::join!(front.get("/", ""), pause);
    for (status, headers, text) in [waiting, front.get("/", "").await, front.get("/", "strict w0").await] {
        assert_eq!((status, headers.contains_key("retry-after")), (503, true), "{text}");
        assert!(detail(&text).contains("paused"), "{text}");
    }
    worker.pieces.add_permits(3);
    assert_eq!(running.text().await.unwrap(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    front.store.set_paused("ep", false).await.unwrap();
    assert_eq!(front.get("/", "").await.0, 200);
}

#[tokio::test]
async fn from_the_beginning_of_a_shutdown_requests_without_a_worker_are_refused() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 1, Keys::default()).await;
    front.all_ready().await;
    let running = Client::new().get(format!("{}/stream", front.base)).send().await.unwrap();
    let drain = async {
        until("a request waits", || front.balancer.figures().waiting == 1).await;
        front.registrations[0].leave();
        front.drain.cancel();
    };
    let (waiting, ()) = tokio::join!(front.get("/", ""), drain);
    for (status, headers, text) in [waiting, front.get("/", "").await] {
        assert_eq!(
            (status, &headers["retry-after"], &headers["connection"]),
            (503, &"1".parse().unwrap(), &"close".parse().unwrap())
        );
        assert!(detail(&text).contains("shutting down"), "{text}");
    }
    worker.pieces.add_permits(3);
    assert_eq!(running.text().await.unwrap().len(), 27);
}

#[tokio::test]
async fn answers_are_counted_by_class_of_status_and_their_time_until_the_last_byte() {
    let worker = Worker::start().await;
    let keys = Keys { client: KeySet::new([Secret::from("k")]), ..Keys::default() };
    let front = front(&[&worker], 4, keys).await;
    front.all_ready().await;
    let get = |path: &str, key: &str| Client::new().get(format!("{}{path}", front.base)).bearer_auth(key).send();
    for (path, key, status) in [("/", "k", 200), ("/fails", "k", 418), ("/", "x", 401)] {
        assert_eq!(get(path, key).await.unwrap().status(), status);
    }
    let stream = get("/stream", "k").await.unwrap();
    until("three have ended", || front.balancer.figures().totals.duration.count() == 3).await;
    let seen = front.balancer.figures();
    assert_eq!((seen.totals.answers, seen.in_progress, seen.waiting), ([0, 2, 0, 2, 0], 1, 0));
    assert_eq!(seen.totals.wait.count(), 3, "one was not let in");
    worker.pieces.add_permits(3);
    stream.text().await.unwrap();
    until("the last one has ended", || front.balancer.figures().totals.duration.count() == 4).await;
}

#[tokio::test]
async fn a_body_that_its_client_breaks_is_the_mistake_of_the_client() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 4, Keys::default()).await;
    front.all_ready().await;
    for chunks in ["5\r\nhello\r\nno number\r\n", "5\r\nhello-and-more\r\n0\r\n\r\n"] {
        let mut stream = TcpStream::connect(front.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{chunks}").as_bytes()).await.unwrap();
        let mut reply = String::new();
        timeout(SOON, stream.read_to_string(&mut reply)).await.unwrap().unwrap();
        assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("its chunks"), "{chunks:?}: {reply}");
    }
    until("the places are free", || front.balancer.load().in_progress == 0).await;
    // The worker is not blamed.
    assert_eq!(front.get("/", "").await.0, 200);
    assert_eq!(front.balancer.figures().totals.answers[4], 0);
}

#[tokio::test]
async fn the_version_of_a_worker_of_http_1_0_concerns_its_own_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let old = Worker { address: listener.local_addr().unwrap(), ..Worker::start().await };
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold").await;
        }
    });
    let front = front(&[&old], 4, Keys::default()).await;
    front.all_ready().await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    for _ in 0..2 {
        // The connection of the client stays open.
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"0\r\n\r\n") {
            reply.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("\r\nold\r\n"), "{reply}");
    }
}
