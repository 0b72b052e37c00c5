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
    #[error("the connection to the worker broke: {0}")]
    Broken(#[from] hyper::Error),
}

/// A connection to a worker.
pub(super) struct WorkerConnection(http1::SendRequest<Body>);

impl WorkerConnection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, ExchangeError> {
        let stream = timeout(CONNECT_TIME, TcpStream::connect(address)).await;
        let stream =
            stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(ExchangeError::Unreached)?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange: nobody sends a second request on it.
        tokio::spawn(connection.with_upgrades());
        Ok(Self(sender))
    }

    /// Sends the request, whose URI has a path and a query only, and waits for the head of the answer.
    pub(super) async fn send(mut self, request: Request<Body>) -> Result<Response<Body>, ExchangeError> {
        Ok(self.0.send_request(request).await?.map(Body::new))
    }
}
