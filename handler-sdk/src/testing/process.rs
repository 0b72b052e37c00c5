//! The handler as a process would run it: its threads, and the frames between them and the test.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::{Decoder, PROTOCOL_VERSION, Received, ToHandler, ToSupervisor, encode_header};

use super::error::TestError;
use crate::fake_device::FakeDevice;
use crate::serve::{EXIT_PROTOCOL, Program, serve_in_test};

/// The shortest wait that a socket takes.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// What serves the connection of a handler, and returns its exit status.
pub(super) type Serve = fn(UnixStream, Option<FakeDevice>) -> u8;

/// The way to serve a kind of handler.
pub(super) fn serve<P: Program>() -> Serve {
    serve_in_test::<P>
}

/// A handler on threads of the test.
#[derive(Debug)]
pub(super) struct Process {
    stream: UnixStream,
    decoder: Decoder<ToSupervisor>,
    thread: Option<JoinHandle<u8>>,
    status: Option<u8>,
}

impl Process {
    /// Starts the threads and greets them.
    pub(super) fn start(serve: Serve, device: Option<FakeDevice>) -> Result<Self, TestError> {
        let (stream, theirs) = UnixStream::pair()?;
        let end = theirs.try_clone()?;
        let thread = std::thread::spawn(move || {
            let status = serve(theirs, device);
            // The end of a process closes its socket. Here other threads hold it too.
            let _ = end.shutdown(Shutdown::Both);
            status
        });
        let mut this = Self { stream, decoder: Decoder::new(), thread: Some(thread), status: None };
        let hello = ToHandler::Hello {
            protocol: PROTOCOL_VERSION,
            worker_version: env!("CARGO_PKG_VERSION").into(),
            processes: 1,
            batch_reports: false,
        };
        this.send(&hello, b"")?;
        Ok(this)
    }

    pub(super) fn send(&mut self, message: &ToHandler, payload: &[u8]) -> Result<(), TestError> {
        let header = encode_header(message, payload.len())?;
        let sent = self.stream.write_all(&header).and_then(|()| self.stream.write_all(payload));
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.exited(),
            _ => error.into(),
        })
    }

    /// The next message; `None` when there is none until then.
    pub(super) fn receive(&mut self, until: Instant) -> Result<Option<(ToSupervisor, Bytes)>, TestError> {
        loop {
            match self.decoder.next()? {
                Some(Received::Message(message, payload)) => return Ok(Some((message, payload))),
                Some(other) => return Err(TestError::Protocol(format!("{other:?}"))),
                None => {}
            }
            let wait = until.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(wait.max(SHORTEST_WAIT)))?;
            match self.decoder.read_from(&mut self.stream) {
                Ok(0) => return Err(self.exited()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(self.exited()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= until {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the threads have ended.
    pub(super) fn has_exited(&self) -> bool {
        self.status.is_some()
    }

    /// Ends the threads after the job that they run.
    pub(super) fn shut_down(&mut self) {
        // It may have ended already.
        let _ = self.send(&ToHandler::Shutdown, b"");
        self.join();
    }

    /// The connection has ended.
    fn exited(&mut self) -> TestError {
        TestError::Exited { status: self.join() }
    }

    fn join(&mut self) -> u8 {
        if let Some(thread) = self.thread.take() {
            self.status = Some(thread.join().unwrap_or(EXIT_PROTOCOL));
        }
        self.status.unwrap_or(EXIT_PROTOCOL)
    }
}
