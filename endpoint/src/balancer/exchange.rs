//! One request to a worker, on a connection of its own.

use std::io;
use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::limits::CONNECT_TIME;

/// Why a worker did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// It was not reached: the request can go to another worker.
    #[error("the worker cannot be reached: {0}")]
    Unreached(#[source] io::Error),
    /// It may have begun the request.
    #[error("the connection to the worker broke before its answer: {0}")]
    Broken(#[from] hyper::Error),
}

/// Why a request has no answer.
pub(super) enum SendError {
    /// Nothing of it was sent: here is its body again.
    Unsent(Body),
    /// It was sent, in part at least.
    Broken(hyper::Error),
}

/// A connection to a worker.
pub(super) struct WorkerConnection(http1::SendRequest<Body>);

impl WorkerConnection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, ExchangeError> {
        let stream = connect(address).await.map_err(ExchangeError::Unreached)?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange: nobody sends a second request on it.
        tokio::spawn(connection.with_upgrades());
        Ok(Self(sender))
    }

    /// Sends the request, whose URI has a path and a query only, and waits for the head of the answer.
    pub(super) async fn send(mut self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        match self.0.try_send_request(request).await {
            Ok(answer) => Ok(answer.map(Body::new)),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendError::Unsent(request.into_body()),
                None => SendError::Broken(error.into_error()),
            }),
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT_TIME, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
