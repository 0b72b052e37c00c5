//! An HTTP server that answers with fixed bytes.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A server that runs `answer` for each connection with the method and path of the request, after it has read its head. Returns the
/// number of requests too.
pub(super) fn serve(
    answer: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (answer, counted) = (Arc::clone(&answer), Arc::clone(&counted));
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone()?).lines();
                let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                counted.fetch_add(1, Ordering::Relaxed);
                answer(request.trim_end_matches(" HTTP/1.1"), &mut stream)
            });
        }
    });
    (address, count)
}

/// A server that answers every path with these bytes and closes the connection.
pub(super) fn fixed(reply: &'static str) -> SocketAddr {
    serve(move |_, stream| stream.write_all(reply.as_bytes())).0
}
