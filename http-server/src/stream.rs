//! A socket that notes when bytes arrive and does not wait for ever for a reader.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::connection::Connection;
use crate::counts::Refusal;
use crate::table::Admitted;

/// Bytes that a reader must accept within the write timeout.
const MIN_PROGRESS: usize = 32 << 10;

/// The socket of one connection.
pub(crate) struct GuardedStream {
    inner: TcpStream,
    admitted: Arc<Admitted>,
    connection: Connection,
    write_timeout: Duration,
    /// The time limit for the next [`MIN_PROGRESS`] bytes. It runs while the reader is behind.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Bytes written since the time limit runs.
    progress: usize,
}

impl GuardedStream {
    pub(crate) fn new(
        inner: TcpStream,
        admitted: Arc<Admitted>,
        connection: Connection,
        write_timeout: Duration,
    ) -> Self {
        Self { inner, admitted, connection, write_timeout, stalled: None, progress: 0 }
    }

    fn check_reset(&self) -> io::Result<()> {
        if !self.connection.is_reset() {
            return Ok(());
        }
        // Closing with a zero linger sends RST instead of an orderly end.
        self.inner.set_zero_linger()?;
        Err(io::ErrorKind::ConnectionReset.into())
    }

    /// Enforces the write timeout on the outcome of a write.
    fn limit_write(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(outcome) = &written {
            self.progress += outcome.as_ref().copied().unwrap_or_default();
            if self.progress >= MIN_PROGRESS {
                self.caught_up();
            }
            return written;
        }
        let limit = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        if stalled.as_mut().poll(context).is_ready() {
            self.admitted.counts().add(Refusal::WriteStalled);
            // The unsent rest must not stay in the kernel.
            let _ = self.inner.set_zero_linger();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    fn caught_up(&mut self) {
        (self.stalled, self.progress) = (None, 0);
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.admitted.activity.received();
        }
        read
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_reset()?;
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.limit_write(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_reset()?;
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.limit_write(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// Called when everything is written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.caught_up();
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
