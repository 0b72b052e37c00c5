//! Notices that whoever started this worker has died, by the end of standard input. A pipe closes however its holder ends,
//! `kill -9` included. The kernel's parent-death signal is no substitute: it is sent when the *thread* ends that started the
//! worker.

use std::io::{self, Read};
use std::thread;

use tokio::sync::mpsc;

use runpod_worker_core::Event;

/// Stops the worker at once when standard input ends: nobody is left to give it jobs or to take its results.
///
/// # Errors
/// When the operating system starts no more threads.
pub(crate) fn watch(events: mpsc::Sender<Event>) -> io::Result<()> {
    watch_input(io::stdin(), events)
}

/// A thread of its own: reading standard input cannot be cancelled, and must not hold up the end of the runtime.
fn watch_input(mut input: impl Read + Send + 'static, events: mpsc::Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("parent".to_owned()).spawn(move || {
        // An input that cannot be read tells no more than one that has ended.
        let _ = io::copy(&mut input, &mut io::sink());
        tracing::warn!("Standard input has ended, so whoever started this worker is gone. Stopping at once.");
        // The worker may be over already.
        let _ = events.blocking_send(Event::Abort);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn the_end_of_input_stops_the_worker_and_input_does_not() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (sender, mut events) = mpsc::channel(1);
        watch_input(theirs, sender).unwrap();
        ours.write_all(b"still here\n").unwrap();
        assert!(events.try_recv().is_err());
        drop(ours);
        assert!(matches!(events.recv().await, Some(Event::Abort)));
    }
}
