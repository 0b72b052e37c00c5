//! A server on loopback and a client so small that it hardly counts.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use runpod_endpoint::api::Keys;
use runpod_endpoint::server::{Server, ServerConfig};
use runpod_endpoint::store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Serves `store` until the token is cancelled.
pub(crate) async fn serve(store: Arc<dyn Store>, hold: Duration, stop: CancellationToken) -> SocketAddr {
    let bind = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = Arc::default();
    let config = ServerConfig {
        bind,
        keys: Keys::default(),
        insecure: false,
        hold,
        max_result_bytes: 1 << 20,
        limits: runpod_http_server::ServerLimits::default(),
        request_memory: 512 << 20,
        options,
    };
    let server = Server::bind(config).await.unwrap();
    let address = server.base_url().trim_start_matches("http://").parse().unwrap();
    tokio::spawn(server.run(store, stop.clone(), stop));
    address
}

/// One kept-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    /// Status and body.
    pub(crate) async fn request(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut request = String::with_capacity(body.len() + 128);
        let length = body.len();
        write!(request, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
            .unwrap();
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.buffer.clear();
        let head = loop {
            self.read().await;
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = std::str::from_utf8(&self.buffer[..head]).unwrap().to_ascii_lowercase();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < head + length {
            self.read().await;
        }
        (status, String::from_utf8(self.buffer[head..].to_vec()).unwrap())
    }

    async fn read(&mut self) {
        assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed the connection");
    }
}

/// The id in a reply.
pub(crate) fn id(reply: &str) -> &str {
    let start = reply.find("\"id\":\"").unwrap() + 6;
    reply[start..].split('"').next().unwrap()
}
