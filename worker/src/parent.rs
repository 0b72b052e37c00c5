//! Stops the worker when the program that started it has ended. The end of standard input shows that: a pipe closes however its
//! holder ends, also by `kill -9`. The kernel's parent-death signal cannot be used instead: it is sent when the *thread* that
//! started the worker ends.

use std::io::{self, Read};
use std::thread;

use tokio::sync::mpsc;

use runpod_worker_core::Event;

/// Stops the worker at once when standard input ends.
///
/// # Errors
/// When the operating system starts no more threads.
pub(crate) fn watch(events: mpsc::Sender<Event>) -> io::Result<()> {
    watch_input(io::stdin(), events)
}

/// A thread of its own: reading standard input cannot be cancelled, and must not hold up the end of the runtime.
fn watch_input(mut input: impl Read + Send + 'static, events: mpsc::Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("parent".to_owned()).spawn(move || {
        // An input that cannot be read counts as ended.
        let _ = io::copy(&mut input, &mut io::sink());
        tracing::warn!(
            "Standard input has ended, so the program that started this worker is gone. The worker stops at once."
        );
        // The worker may have ended already.
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
    async fn only_the_end_of_input_stops_the_worker() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (sender, mut events) = mpsc::channel(1);
        watch_input(theirs, sender).unwrap();
        ours.write_all(b"still here\n").unwrap();
        assert!(events.try_recv().is_err());
        drop(ours);
        assert!(matches!(events.recv().await, Some(Event::Abort)));
    }
}
