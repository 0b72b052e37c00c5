//! What two replicas do with the same batch, the same turns, the same stream and the same overflow.

use std::sync::Arc;
use std::time::Duration;

use end_to_end_tests::Postgres as Server;
use runpod_endpoint::store::{BatchState, OVERFLOW, Overdue, Setup, Status, Store, Task};
use tokio::time::timeout;

use crate::replicas::{news, two};
use crate::support::{
    EP, SOON, done, failed, job_with, new_job, open_database, payload, status, submit, take, take_ids,
};

#[tokio::test]
async fn a_batch_is_one_and_the_same_at_every_replica() {
    const REQUESTS: usize = 60;
    let Some([a, b]) = two() else { return };
    let job = |number: usize| new_job(&format!("job-{number}"));
    a.create_batch(EP, "b".into(), Vec::new()).await.unwrap();
    let mut adding = tokio::task::JoinSet::new();
    for number in 0..REQUESTS {
        let store = Arc::clone(if number % 2 == 0 { &a } else { &b });
        adding.spawn(async move { store.add_to_batch(EP, "b", vec![job(number)]).await.unwrap() });
    }
    timeout(SOON, adding.join_all()).await.unwrap();
    let (waiting, _) = news(b.take(EP, "w0", 1, SOON * 10), async {
        assert_eq!(a.finalize_batch(EP, "b").await.unwrap().counts.waiting, REQUESTS);
    })
    .await;
    let first = waiting.unwrap().remove(0);
    a.finish(EP, "w0", &first.id, failed("no")).await.unwrap();
    let mut workers = tokio::task::JoinSet::new();
    for (number, store) in [&a, &b, &a, &b].into_iter().enumerate() {
        let store = Arc::clone(store);
        workers.spawn(async move {
            let name = format!("w{number}");
            while store.batch(EP, "b").await.unwrap().counts.waiting > 0 {
                for job in store.take(EP, &name, 3, Duration::ZERO).await.unwrap() {
                    store.finish(EP, &name, &job.id, done("1")).await.unwrap();
                }
            }
        });
    }
    timeout(SOON * 3, workers.join_all()).await.unwrap();
    for store in [&a, &b] {
        let counts = store.batch(EP, "b").await.unwrap().counts;
        assert_eq!((counts.completed, counts.failed, counts.total()), (REQUESTS - 1, 1, REQUESTS));
        let page = store.batch_requests(EP, "b", 0, REQUESTS).await.unwrap();
        assert!(page.entries.iter().all(|request| request.completed.is_some()), "{page:?}");
    }
}

#[tokio::test]
async fn a_batch_that_is_cancelled_while_both_replicas_take_from_it_ends() {
    let Some([a, b]) = two() else { return };
    let jobs = (0..200).map(|number| new_job(&format!("job-{number}"))).collect();
    a.create_batch(EP, "b".into(), jobs).await.unwrap();
    b.finalize_batch(EP, "b").await.unwrap();
    let takes = async {
        let mut taken = Vec::new();
        for store in [&a, &b, &a, &b, &a, &b] {
            taken.extend(take(&**store, "w", 5).await);
        }
        taken
    };
    let (taken, cancelled) = timeout(SOON, async { tokio::join!(takes, b.cancel_batch(EP, "b")) }).await.unwrap();
    cancelled.unwrap();
    assert_eq!(a.batch(EP, "b").await.unwrap().counts.in_progress, taken.len());
    for job in &taken {
        a.finish(EP, "w", &job.id, done("1")).await.unwrap();
    }
    let batch = b.batch(EP, "b").await.unwrap();
    assert_eq!((batch.state, batch.counts.completed), (BatchState::Cancelled, taken.len()));
    assert_eq!((batch.counts.cancelled, a.health(EP).await.unwrap().in_queue), (200 - taken.len(), 0));
}

#[tokio::test]
async fn clients_take_turns_whichever_replica_they_use() {
    let Some([a, b]) = two() else { return };
    let of_share = |id: &str| job_with(id, |request| request.share = Some(id[..1].into()));
    for (store, id) in [(&a, "a1"), (&b, "a2"), (&a, "a3"), (&b, "b1"), (&a, "b2"), (&b, "c1")] {
        store.submit(EP, of_share(id)).await.unwrap();
    }
    assert_eq!(take_ids(&*b, "w", 3).await, ["a1", "b1", "c1"]);
    // Who comes late neither waits for the others nor passes them.
    a.submit(EP, of_share("d1")).await.unwrap();
    b.submit(EP, of_share("d2")).await.unwrap();
    assert_eq!(take_ids(&*a, "w", 2).await, ["a2", "b2"]);
    assert_eq!(b.hand_back(EP, "w", &["a2".into()]).await, Ok(1));
    assert_eq!(take_ids(&*b, "w", 9).await, ["a2", "d1", "a3", "d2"]);
}

#[tokio::test]
async fn streams_are_read_whole_at_another_replica_than_they_are_written_at() {
    const STREAMS: usize = 20;
    const ITEMS: usize = 40;
    let Some([a, b]) = two() else { return };
    for stream in 0..STREAMS {
        submit(&*a, &format!("job-{stream}")).await;
    }
    assert_eq!(take(&*b, "w", STREAMS).await.len(), STREAMS);
    let mut tasks = tokio::task::JoinSet::new();
    for stream in 0..STREAMS {
        let (id, writer, reader) = (format!("job-{stream}"), Arc::clone(&b), Arc::clone(&a));
        let read_id = id.clone();
        tasks.spawn(async move {
            for item in 0..ITEMS {
                writer.stream_item(EP, "w", &id, payload(&item.to_string())).await.unwrap();
            }
            writer.finish(EP, "w", &id, done("1")).await.unwrap();
            Vec::new()
        });
        tasks.spawn(async move {
            let mut read: Vec<String> = Vec::new();
            loop {
                let (status, items) = reader.drain(EP, &read_id, SOON).await.unwrap();
                let is_last = status.is_terminal() && items.is_empty();
                read.extend(items.iter().map(|item| item.get().to_owned()));
                if is_last {
                    return read;
                }
            }
        });
    }
    let expected: Vec<_> = (0..ITEMS).map(|item| item.to_string()).collect();
    let read: Vec<_> = timeout(SOON * 3, tasks.join_all()).await.unwrap();
    let read: Vec<_> = read.into_iter().filter(|read| !read.is_empty()).collect();
    assert!(read.len() == STREAMS && read.iter().all(|read| *read == expected), "{read:?}");
}

/// Whatever the length of the input and of the history, an item costs what it is.
#[tokio::test]
async fn a_stream_item_writes_neither_its_job_again_nor_the_items_before() {
    let Some(server) = Server::shared() else { return };
    let url = server.database();
    let store: Arc<dyn Store> = Arc::new(open_database(&url, &Setup::default()).unwrap());
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    store.stream_item(EP, "w", "a", payload("0")).await.unwrap();
    let versions = || {
        let job = server.sql(&url, "SELECT ctid FROM jobs WHERE id = 'a'");
        (job, server.sql(&url, "SELECT ctid FROM chunks WHERE n = 0"))
    };
    let before = versions();
    for item in 1..=20 {
        store.stream_item(EP, "w", "a", payload(&item.to_string())).await.unwrap();
    }
    assert_eq!(versions(), before);
    let (_, items) = store.drain(EP, "a", Duration::ZERO).await.unwrap();
    assert_eq!(items.len(), 21);
    assert_eq!(
        versions(),
        (before.0, String::new()),
        "read items are gone, and the job is not written for that either"
    );
}

#[tokio::test]
async fn late_jobs_are_sent_elsewhere_by_one_replica_and_followed_by_the_next() {
    let Some([a, b]) = two() else { return };
    assert_eq!((a.turn(EP, Task::Overflow).await, b.turn(EP, Task::Overflow).await), (Ok(true), Ok(false)));
    assert_eq!(b.turn(EP, Task::Scaling).await, Ok(true), "each task has turns of its own");
    submit(&*a, "late").await;
    let taken = a.take_overdue(EP, &Overdue { max: 9, ..Overdue::default() }).await.unwrap();
    assert_eq!(taken.len(), 1);
    a.accepted_elsewhere(EP, "late", "far").await.unwrap();
    drop(a);
    let next = async {
        while b.turn(EP, Task::Overflow).await != Ok(true) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, next).await.expect("the turn of a replica that is gone ends");
    let found = b.elsewhere(EP).await.unwrap();
    assert_eq!(found.iter().map(|job| job.far_id.as_deref()).collect::<Vec<_>>(), [Some("far")]);
    b.finish(EP, OVERFLOW, "late", done("1")).await.unwrap();
    assert_eq!(status(&*b, "late").await, Status::Completed);
}
