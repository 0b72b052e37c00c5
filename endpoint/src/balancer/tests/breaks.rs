//! Workers that break connections, and those that are gone.

use axum::http::Method;

use super::*;

/// What a worker does with a request that it has read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It closes the connection and lives on.
    HangsUp,
    /// Its process ends.
    Dies,
    /// Its process ends, and the socket at which it listens is closed a moment after the connection.
    DiesSlowly,
}

/// A worker that answers probes, and no request.
async fn breaking(end: End) -> Worker {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let worker = Worker { address: listener.local_addr().unwrap(), ..Worker::start().await };
    let requests = Arc::clone(&worker.requests);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 1024];
            let read = stream.read(&mut bytes).await.unwrap_or_default();
            if bytes[..read].starts_with(b"GET /ping") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            } else if read > 0 {
                requests.fetch_add(1, Ordering::Relaxed);
                match end {
                    End::HangsUp => {}
                    End::Dies => {
                        drop(listener);
                        return;
                    }
                    End::DiesSlowly => {
                        drop(stream);
                        sleep(Duration::from_millis(30)).await;
                        return;
                    }
                }
            }
        }
    });
    worker
}

async fn send(front: &Front, method: Method, body: &'static str) -> (u16, String) {
    let request = Client::new().request(method, &front.base).header("x-runpod-worker-id", "w0").body(body);
    let reply = timeout(SOON, request.send()).await.unwrap().unwrap();
    (reply.status().as_u16(), reply.text().await.unwrap())
}

#[tokio::test]
async fn a_request_that_reached_a_worker_which_lives_on_is_never_sent_to_another_one() {
    let (breaking, other) = (breaking(End::HangsUp).await, Worker::start().await);
    let front = front(&[&breaking, &other], 4, Keys::default()).await;
    front.all_ready().await;
    for method in [Method::GET, Method::POST] {
        let (status, text) = send(&front, method, "").await;
        assert_eq!(status, 502, "{text}");
        assert!(detail(&text).contains("connection to the worker broke before its answer"), "{text}");
        assert!(detail(&text).contains("it was not sent to another one"), "{text}");
    }
    assert_eq!((breaking.requests.load(Ordering::Relaxed), other.requests.load(Ordering::Relaxed)), (2, 0));
}

#[tokio::test]
async fn whatever_its_method_is_a_request_that_ended_its_worker_ends_no_second_one() {
    let ends = [End::Dies, End::DiesSlowly];
    let requests = [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, ""), (Method::PUT, "x")];
    for (end, (method, body)) in ends.into_iter().flat_map(|end| requests.clone().map(|request| (end, request))) {
        let (dying, other) = (breaking(end).await, Worker::start().await);
        let front = front(&[&dying, &other], 4, Keys::default()).await;
        front.all_ready().await;
        let (status, text) = send(&front, method.clone(), body).await;
        assert_eq!(status, 502, "{method}: {text}");
        let seen = [&dying, &other].map(|worker| worker.requests.load(Ordering::Relaxed));
        assert_eq!(seen, [1, 0], "{method}");
    }
}

#[tokio::test]
async fn a_worker_that_cannot_be_reached_has_not_seen_the_request() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let other = Worker::start().await;
    let front = front(&[&other], 4, Keys::default()).await;
    front.all_ready().await;
    let registration = front.balancer.register(Arc::from("gone"), gone);
    eventually("it gets the request before its probe tells", async || {
        front.balancer.set_readiness("gone", table::Readiness::Ready);
        let (status, headers, _) = front.get("/", "gone").await;
        (status == 200 && headers["x-runpod-worker-id"] == "w0").then_some(())
    })
    .await;
    drop(registration);
}
