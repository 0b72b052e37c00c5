//! What the probe of a worker says, and what others are told of it.

use super::probe::probe;
use super::table::Readiness;
use super::*;
use crate::store::{WorkerEvent, WorkerState};

/// A worker that answers every request with this; `None` answers none.
async fn answering(answer: Option<(u16, &'static str)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some((status, body)) = answer {
                let _ = stream.read(&mut [0; 1024]).await;
                let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
            open.push(stream);
        }
    });
    address
}

#[tokio::test]
async fn a_worker_without_time_for_its_probe_is_busy_and_one_that_says_what_is_wrong_is_believed() {
    use Readiness::{Busy, Draining, Ready, Starting, Unhealthy};
    // All connections of the worker's server are in use.
    let full = r#"{"error":"all connections of this server are in use; try again in 1 s","status":503}"#;
    for (answer, idle, busy) in [
        (Some((200, "")), Ready, Ready),
        (Some((204, "")), Starting, Starting),
        (Some((204, "starting")), Starting, Starting),
        (Some((500, "")), Unhealthy, Unhealthy),
        (Some((503, r#"{"state":"unhealthy","reason":"r"}"#)), Unhealthy, Unhealthy),
        (Some((503, r#"{"state":"draining"}"#)), Draining, Draining),
        (Some((503, r#"{"state":"running"}"#)), Starting, Starting),
        (Some((503, full)), Unhealthy, Busy),
        (Some((503, "")), Unhealthy, Busy),
        (None, Unhealthy, Busy),
    ] {
        let address = answering(answer).await;
        let found = tokio::join!(probe(address, || false), probe(address, || true));
        assert_eq!(found, (idle, busy), "{answer:?}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!((probe(closed, || false).await, probe(closed, || true).await), (Starting, Busy));
}

#[tokio::test]
async fn a_busy_a_draining_and_a_leaving_worker_are_not_unhealthy() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 4, Keys::default()).await;
    front.all_ready().await;
    let stream = Client::new().get(format!("{}/stream", front.base)).send().await.unwrap();
    let seen = |readiness| {
        front.balancer.set_readiness("w0", readiness);
        (front.registrations[0].event(), front.balancer.load().workers[0].state)
    };
    for readiness in [Readiness::Ready, Readiness::Busy, Readiness::Draining, Readiness::Starting] {
        assert_eq!(seen(readiness), (WorkerEvent::Serving(1), WorkerState::Running), "{readiness:?}");
    }
    assert_eq!(seen(Readiness::Unhealthy).0, WorkerEvent::Failing);
    worker.pieces.add_permits(3);
    stream.text().await.unwrap();
    until("the place is free", || front.balancer.load().in_progress == 0).await;
    assert_eq!(seen(Readiness::Draining), (WorkerEvent::Serving(0), WorkerState::Leaving));
    assert_eq!(seen(Readiness::Starting), (WorkerEvent::Starting, WorkerState::Initializing));
    // It ends because it was told to.
    front.registrations[0].leave();
    assert_eq!(seen(Readiness::Unhealthy), (WorkerEvent::Serving(0), WorkerState::Leaving));
}
