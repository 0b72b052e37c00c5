//! Connections that have been upgraded, such as WebSockets: bytes in both directions.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy, split};
use tokio::time::timeout;

use super::limits::LINGER;
use super::workers::Place;

/// Passes bytes on until both sides have ended. An open socket occupies its place at the worker until the worker has ended its side.
pub(super) async fn tunnel(client: OnUpgrade, worker: OnUpgrade, place: Place) {
    let (client, worker) = match tokio::try_join!(client, worker) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(worker = %place.worker, %error, "A connection was not upgraded.");
            return;
        }
    };
    let id = Arc::clone(&place.worker);
    if let Err(error) = pass(TokioIo::new(client), TokioIo::new(worker), place).await {
        tracing::debug!(worker = %id, %error, "An upgraded connection broke.");
    }
}

async fn pass<C, W>(client: C, worker: W, place: Place) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    W: AsyncRead + AsyncWrite,
{
    let ((mut from_client, mut to_client), (mut from_worker, mut to_worker)) = (split(client), split(worker));
    let answers = async move {
        copy(&mut from_worker, &mut to_client).await?;
        drop(place);
        to_client.shutdown().await
    };
    let requests = async move {
        copy(&mut from_client, &mut to_worker).await?;
        to_worker.shutdown().await
    };
    let (mut answers, mut requests) = (pin!(answers), pin!(requests));
    tokio::select! {
        // Nobody reads any more what a client sends that does not end its side.
        ended = &mut answers => {
            ended?;
            timeout(LINGER, requests).await.unwrap_or(Ok(()))
        }
        ended = &mut requests => {
            ended?;
            answers.await
        }
    }
}
