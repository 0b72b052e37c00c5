//! The connection to the database is lost at a commit: whether it was committed is looked up, and nothing is lost or done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::{Postgres as Server, until};
use runpod_endpoint::store::{Setup, Status, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::{CONNECTIONS, EP, SOON, done, open_database, output_of, status, submit, take_ids, view};

/// The end of a message of PostgreSQL's protocol that commits.
const COMMIT: &[u8] = b"COMMIT\0";

/// What becomes of the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Nothing = 0,
    /// The server gets it, and its answer is lost.
    Answer = 1,
    /// The server does not get it.
    Request = 2,
}

/// Stands between a store and its database.
struct Cutter {
    next: Arc<AtomicU8>,
    cuts: Arc<AtomicUsize>,
    port: u16,
}

impl Cutter {
    fn start(server: u16) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (next, cuts) = (Arc::new(AtomicU8::new(Cut::Nothing as u8)), Arc::new(AtomicUsize::new(0)));
        let (next_of_all, cuts_of_all) = (Arc::clone(&next), Arc::clone(&cuts));
        CONNECTIONS.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                tokio::spawn(relay(client, server, Arc::clone(&next_of_all), Arc::clone(&cuts_of_all)));
            }
        });
        Self { next, cuts, port }
    }

    fn cut(&self, cut: Cut) {
        self.next.store(cut as u8, Ordering::SeqCst);
    }

    fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Passes everything on until a commit is to be cut.
async fn relay(client: TcpStream, server: TcpStream, next: Arc<AtomicU8>, cuts: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read) = from_client.read(&mut buffer).await {
        let some = &buffer[..read];
        if read == 0 {
            break;
        }
        let is_commit = some.windows(COMMIT.len()).any(|window| window == COMMIT);
        let cut = if is_commit { next.swap(Cut::Nothing as u8, Ordering::SeqCst) } else { Cut::Nothing as u8 };
        if cut != Cut::Nothing as u8 {
            cuts.fetch_add(1, Ordering::SeqCst);
            // From here on no answer gets through.
            answers.abort();
            if cut == Cut::Answer as u8 {
                let _ = to_server.write_all(some).await;
                // The server must have committed before it notices that nobody listens.
                sleep(Duration::from_millis(300)).await;
            }
            return;
        }
        if to_server.write_all(some).await.is_err() {
            break;
        }
    }
    answers.abort();
}

/// A store behind a cutter, with a job in its queue; `None` where there is no PostgreSQL.
async fn store() -> Option<(Arc<dyn Store>, Cutter)> {
    let server = Server::shared()?;
    let cutter = Cutter::start(server.port());
    let url = server.database().replace(&format!(":{}/", server.port()), &format!(":{}/", cutter.port));
    let store = Arc::new(open_database(&format!("{url}?sslmode=disable"), &Setup::default()).unwrap());
    submit(&*store, "a").await;
    Some((store, cutter))
}

/// Each kind of change, with the connection lost at its commit.
async fn nothing_is_lost_or_done_twice(cut: Cut) {
    let Some((store, cutter)) = store().await else { return };
    cutter.cut(cut);
    timeout(SOON, submit(&*store, "b")).await.unwrap();
    assert_eq!(cutter.cuts(), 1);
    assert_eq!(store.health(EP).await.unwrap().in_queue, 2);

    cutter.cut(cut);
    let taken = timeout(SOON, store.take(EP, "w", 1, Duration::ZERO)).await.unwrap().unwrap();
    assert_eq!(cutter.cuts(), 2);
    assert_eq!((&*taken[0].id, taken[0].attempt), ("a", 1));
    assert_eq!(take_ids(&*store, "v", 9).await, ["b"]);

    cutter.cut(cut);
    timeout(SOON, store.finish(EP, "w", "a", done("1"))).await.unwrap().unwrap();
    assert_eq!(cutter.cuts(), 3);
    let ended = view(&*store, "a").await;
    assert_eq!((ended.status, output_of(&ended)), (Status::Completed, Some("1")));
    let health = store.health(EP).await.unwrap();
    assert_eq!((health.completed, health.in_progress, health.in_queue), (1, 1, 0));
    assert_eq!(status(&*store, "b").await, Status::InProgress);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_once() {
    nothing_is_lost_or_done_twice(Cut::Answer).await;
}

#[tokio::test]
async fn a_commit_that_did_not_arrive_is_made_again() {
    nothing_is_lost_or_done_twice(Cut::Request).await;
}

/// The worker that would have got the job is gone when the outcome is known: the job goes back.
#[tokio::test]
async fn a_job_that_was_taken_for_nobody_goes_back_to_the_queue() {
    let Some((store, cutter)) = store().await else { return };
    cutter.cut(Cut::Answer);
    let polling = Arc::clone(&store);
    let poll = tokio::spawn(async move { polling.take(EP, "gone", 1, SOON).await });
    // At once: a moment later the outcome may be known, and the worker gets its job.
    while cutter.cuts() == 0 {
        tokio::task::yield_now().await;
    }
    poll.abort();
    assert!(poll.await.is_err());
    let again = timeout(SOON, store.take(EP, "next", 1, SOON)).await.unwrap().unwrap();
    assert_eq!((&*again[0].id, again[0].attempt), ("a", 2));
}

/// A server whose wait for its standbys is cancelled reports success all the same.
#[tokio::test]
async fn a_commit_that_may_not_have_reached_the_standbys_is_not_acknowledged() {
    let Some(server) = Server::start() else { return };
    let url = server.database();
    // Whatever the user's own sessions are told.
    let name = url.rsplit('/').next().unwrap();
    server.sql(&url, &format!("ALTER DATABASE {name} SET client_min_messages = error"));
    let store: Arc<dyn Store> = Arc::new(open_database(&url, &Setup::default()).unwrap());
    submit(&*store, "a").await;
    server.sql(&url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.sql(&url, "SELECT pg_reload_conf()");
    until("the server to wait for a standby", || server.sql(&url, "SHOW synchronous_standby_names") == "nobody").await;
    let submitting = Arc::clone(&store);
    let submitting = tokio::spawn(async move { submit(&*submitting, "b").await });
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'COMMIT%'";
    until("a commit to wait", || server.sql(&url, cancel) != "0").await;
    sleep(Duration::from_secs(1)).await;
    assert!(!submitting.is_finished(), "no standby has it, and it was acknowledged");
    server.sql(&url, "ALTER SYSTEM RESET synchronous_standby_names");
    server.sql(&url, "SELECT pg_reload_conf()");
    timeout(SOON, submitting).await.unwrap().unwrap();
    assert_eq!(store.health(EP).await.unwrap().in_queue, 2, "it counts once");
}
