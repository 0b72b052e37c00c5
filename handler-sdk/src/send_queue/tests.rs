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
    std::thread::scope(|scope| {
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
