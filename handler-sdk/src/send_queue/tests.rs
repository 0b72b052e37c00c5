use runpod_handler_protocol::{Decoder, Received};

use super::*;

/// What a worker reads once everything was written.
fn written(queue: &SendQueue) -> Vec<(ToSupervisor, String)> {
    let mut decoder = Decoder::new();
    let mut bytes = Vec::new();
    queue.close();
    queue.write_to(&mut bytes).unwrap();
    decoder.buffer_mut().extend_from_slice(&bytes);
    std::iter::from_fn(|| decoder.next().unwrap())
        .map(|received| match received {
            Received::Message(message, payload) => (message, String::from_utf8(payload.to_vec()).unwrap()),
            other => panic!("unexpected {other:?}"),
        })
        .collect()
}

fn progress(job: &str) -> ToSupervisor {
    ToSupervisor::Progress { job: job.to_owned(), attempt: 1 }
}

#[test]
fn only_the_newest_progress_of_a_job_is_sent_and_before_its_result() {
    let queue = SendQueue::default();
    let failed = ToSupervisor::Failed { job: "a".to_owned(), attempt: 1, refresh: false, reloading: false };
    queue.push(&progress("a"), "1".into());
    queue.push(&progress("b"), "1".into());
    queue.push(&progress("a"), "2".into());
    queue.push(&progress("a"), "3".into());
    queue.push(&failed, Bytes::new());
    let expected = [(progress("a"), "3"), (progress("b"), "1"), (failed, "")];
    assert_eq!(written(&queue), expected.map(|(message, payload)| (message, payload.to_owned())));
}

#[test]
fn the_newest_pong_is_sent_first_and_the_others_never() {
    let queue = SendQueue::default();
    queue.push(&progress("a"), "1".into());
    queue.pong(1);
    queue.pong(2);
    let messages: Vec<_> = written(&queue).into_iter().map(|(message, _)| message).collect();
    assert_eq!(messages, [ToSupervisor::Pong { seq: 2 }, progress("a")]);
}

#[test]
fn a_flush_waits_for_the_frames_queued_before_it_and_for_no_others() {
    struct Gate(std::sync::mpsc::Receiver<()>);
    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let queue = SendQueue::default();
    let (open, gate) = std::sync::mpsc::sync_channel(0);
    queue.push(&progress("a"), Bytes::new());
    queue.push(&progress("b"), Bytes::new());
    thread::scope(|scope| {
        let writer = scope.spawn(|| queue.write_to(&mut Gate(gate)));
        open.send(()).unwrap();
        assert!(!queue.flush(Duration::from_millis(20)), "b was not written");
        let flush = scope.spawn(|| queue.flush(Duration::from_secs(60)));
        open.send(()).unwrap();
        assert!(flush.join().unwrap());
        // Pongs are not counted.
        queue.pong(1);
        queue.push(&progress("c"), Bytes::new());
        open.send(()).unwrap();
        assert!(!queue.flush(Duration::from_millis(20)), "only the pong was written");
        drop(open);
        writer.join().unwrap().unwrap_err();
    });
    assert!(!queue.flush(Duration::from_secs(60)), "the connection is closed");
}

#[test]
fn a_broken_connection_ends_the_writer_and_every_flush() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let queue = SendQueue::default();
    queue.push(&progress("a"), "1".into());
    queue.push(&progress("b"), "1".into());
    assert_eq!(queue.write_to(&mut Broken).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(!queue.flush(Duration::from_secs(60)));
}

/// A queue that writes to a socket itself, and the other end.
fn attached() -> (SendQueue, UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let queue = SendQueue::default();
    queue.attach(ours.try_clone().unwrap());
    (queue, ours, theirs)
}

/// Reads messages until there are this many.
fn read_messages(theirs: &mut UnixStream, count: usize) -> Vec<(ToSupervisor, usize)> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    while messages.len() < count {
        match decoder.next().unwrap() {
            Some(Received::Message(message, payload)) => messages.push((message, payload.len())),
            Some(other) => panic!("unexpected {other:?}"),
            None => assert!(decoder.read_from(theirs).unwrap() > 0, "the stream ended"),
        }
    }
    messages
}

#[test]
fn a_frame_is_written_by_the_thread_that_adds_it() {
    let (queue, _ours, mut theirs) = attached();
    queue.push(&progress("a"), "1".into());
    assert!(queue.flush(Duration::ZERO), "nobody else has to write it");
    queue.pong(7);
    let messages = read_messages(&mut theirs, 2);
    assert_eq!(messages, [(progress("a"), 1), (ToSupervisor::Pong { seq: 7 }, 0)]);
}

#[test]
fn what_the_socket_has_no_room_for_is_left_to_the_writer_thread_in_order() {
    const LARGE: usize = 8 * 1024 * 1024;
    let (queue, mut ours, mut theirs) = attached();
    queue.push(&progress("large"), vec![b'1'; LARGE].into());
    assert!(!queue.flush(Duration::from_millis(1)), "a socket does not hold that much");
    queue.push(&progress("small"), "1".into());
    // A pong comes before every frame, but not into the middle of one.
    queue.pong(1);
    thread::scope(|scope| {
        let writer = scope.spawn(|| queue.write_to(&mut ours));
        let messages = read_messages(&mut theirs, 3);
        let expected = [(progress("large"), LARGE), (ToSupervisor::Pong { seq: 1 }, 0), (progress("small"), 1)];
        assert_eq!(messages, expected);
        assert!(queue.flush(Duration::from_secs(60)));
        queue.close();
        writer.join().unwrap().unwrap();
    });
}

#[test]
fn frames_of_many_threads_arrive_whole_and_each_threads_own_in_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 500;
    let (queue, mut ours, mut theirs) = attached();
    let chunk = |thread: u64, seq| ToSupervisor::Chunk { job: thread.to_string(), attempt: 1, seq };
    thread::scope(|scope| {
        let writer = scope.spawn(|| queue.write_to(&mut ours));
        let queue = &queue;
        for thread in 0..THREADS {
            scope.spawn(move || {
                for seq in 1..=EACH {
                    queue.push(&chunk(thread, seq), vec![b'x'; (seq % 7 * 300) as usize].into());
                    if seq % 50 == 0 {
                        assert!(queue.flush(Duration::from_secs(60)));
                    }
                }
            });
        }
        let messages = read_messages(&mut theirs, (THREADS * EACH) as usize);
        for thread in 0..THREADS {
            let is_own = |message: &ToSupervisor| matches!(message, ToSupervisor::Chunk { job, .. } if *job == thread.to_string());
            let own = messages.iter().filter(|(message, _)| is_own(message));
            let expected = (1..=EACH).map(|seq| (chunk(thread, seq), (seq % 7 * 300) as usize));
            assert!(own.cloned().eq(expected), "thread {thread}");
        }
        queue.close();
        writer.join().unwrap().unwrap();
    });
}

#[test]
fn a_peer_that_is_gone_is_noticed_by_the_writer_thread() {
    let (queue, mut ours, theirs) = attached();
    drop(theirs);
    queue.push(&progress("a"), "1".into());
    assert!(queue.write_to(&mut ours).is_err());
    assert!(!queue.flush(Duration::from_secs(60)));
}
