//! WebSockets, with a client and a worker that speak the protocol.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, accept_async, connect_async};

use super::*;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A worker that echoes messages, and the codes of the close frames that it gets. `close` makes it close the socket, `die` breaks
/// its connection.
pub(super) async fn echo() -> (Worker, mpsc::Receiver<u16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let worker = Worker { address: listener.local_addr().unwrap(), ..Worker::start().await };
    let (codes, received) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let codes = codes.clone();
            tokio::spawn(async move {
                let mut start = [0; 9];
                while stream.peek(&mut start).await.is_ok_and(|read| (1..start.len()).contains(&read)) {}
                if &start == b"GET /ping" {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    return;
                }
                let mut socket = accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    match message {
                        Message::Text(text) if text.as_str() == "close" => {
                            let frame = CloseFrame { code: CloseCode::Library(4001), reason: "enough".into() };
                            socket.close(Some(frame)).await.unwrap();
                        }
                        Message::Text(text) if text.as_str() == "die" => return,
                        Message::Close(Some(frame)) => codes.send(frame.code.into()).await.unwrap(),
                        message if message.is_text() || message.is_binary() => socket.send(message).await.unwrap(),
                        _ => {}
                    }
                }
            });
        }
    });
    (worker, received)
}

async fn connect(front: &Front) -> Socket {
    let url = front.base.replace("http://", "ws://");
    let (socket, answer) = timeout(SOON, connect_async(format!("{url}/chat?x=1"))).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-runpod-worker-id"].to_str().unwrap()), (101, "w0"));
    socket
}

async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    timeout(SOON, socket.next()).await.unwrap()
}

#[tokio::test]
async fn messages_of_every_kind_and_size_pass_in_both_directions() {
    let (worker, _codes) = echo().await;
    let front = front(&[&worker], 1, Keys::default()).await;
    front.all_ready().await;
    let mut socket = connect(&front).await;
    for number in 0..100 {
        let text = Message::text(format!("message {number} ä"));
        socket.send(text.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap().unwrap(), text);
    }
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        let binary = Message::binary(vec![7; bytes]);
        socket.send(binary.clone()).await.unwrap();
        assert!(next(&mut socket).await.unwrap().unwrap() == binary, "{bytes}");
    }
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"there?")));
    assert_eq!(front.balancer.load().in_progress, 1, "an open socket occupies its place");
    assert_eq!(front.get("/", "").await.0, 400, "the worker is full");
}

#[tokio::test]
async fn close_codes_pass_in_both_directions_and_the_place_is_free() {
    let (worker, mut codes) = echo().await;
    let front = front(&[&worker], 1, Keys::default()).await;
    front.all_ready().await;
    let mut socket = connect(&front).await;
    socket.send(Message::text("close")).await.unwrap();
    let Message::Close(Some(frame)) = next(&mut socket).await.unwrap().unwrap() else { panic!("no close frame") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "enough"));
    while next(&mut socket).await.is_some() {}
    until("the place is free", || front.balancer.load().in_progress == 0).await;

    assert_eq!(timeout(SOON, codes.recv()).await.unwrap(), Some(4001), "it is confirmed");

    let mut socket = connect(&front).await;
    let frame = CloseFrame { code: CloseCode::Library(4002), reason: "bye".into() };
    socket.close(Some(frame)).await.unwrap();
    assert_eq!(timeout(SOON, codes.recv()).await.unwrap(), Some(4002));
    while next(&mut socket).await.is_some() {}
    until("the place is free", || front.balancer.load().in_progress == 0).await;
}

#[tokio::test]
async fn a_client_notices_a_worker_that_dies_and_a_worker_a_client_that_is_gone() {
    let (worker, _codes) = echo().await;
    let front = front(&[&worker], 1, Keys::default()).await;
    front.all_ready().await;
    let mut socket = connect(&front).await;
    socket.send(Message::text("die")).await.unwrap();
    let end = next(&mut socket).await;
    assert!(matches!(end, None | Some(Err(_))), "an end without a close frame: {end:?}");
    until("the place is free", || front.balancer.load().in_progress == 0).await;
    let socket = connect(&front).await;
    assert_eq!(front.balancer.load().in_progress, 1);
    drop(socket);
    until("the place is free", || front.balancer.load().in_progress == 0).await;
}

#[tokio::test]
async fn a_handshake_needs_the_key_once_and_a_worker_may_refuse_it() {
    let worker = Worker::start().await;
    let keys = Keys { client: KeySet::new([Secret::from("k")]), ..Keys::default() };
    let front = front(&[&worker], 1, keys).await;
    front.all_ready().await;
    let url = front.base.replace("http://", "ws://");
    let handshake = async |path: &str, key: Option<&str>| {
        let mut request = format!("{url}{path}").into_client_request().unwrap();
        if let Some(key) = key {
            request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        match timeout(SOON, connect_async(request)).await.unwrap() {
            Err(Error::Http(answer)) => answer.status().as_u16(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((handshake("/", None).await, handshake("/", Some("x")).await), (401, 401));
    assert_eq!(handshake("/fails", Some("k")).await, 418);
    until("the place is free", || front.balancer.load().in_progress == 0).await;
}

#[tokio::test]
async fn bytes_of_any_protocol_pass_after_an_upgrade_and_either_side_may_end_first() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 1, Keys::default()).await;
    front.all_ready().await;
    let mut socket = TcpStream::connect(front.address).await.unwrap();
    let request = format!(
        "GET /socket HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
        front.address
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, socket.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    for line in ["HTTP/1.1 101", "upgrade: websocket", "x-runpod-worker-id: w0"] {
        assert!(head.contains(line), "{head}");
    }
    for message in ["one", "two"] {
        socket.write_all(message.as_bytes()).await.unwrap();
        let mut echo = [0; 3];
        timeout(SOON, socket.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(&echo, message.as_bytes());
    }
    assert_eq!(front.balancer.load().in_progress, 1);
    assert_eq!(front.get("/", "").await.0, 400, "the worker is full");
    socket.shutdown().await.unwrap();
    let mut rest = String::new();
    timeout(SOON, socket.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, "closed");
    until("the place is free", || front.balancer.load().in_progress == 0).await;
}

#[tokio::test]
async fn an_open_socket_counts_among_the_connections_and_the_kernel_asks_whether_its_client_is_there() {
    let (worker, _codes) = echo().await;
    let limits =
        ServerLimits { max_connections: 2, idle_timeout: Duration::from_millis(300), ..ServerLimits::default() };
    let front = limited_front(&[&worker], 4, Keys::default(), limits).await;
    front.all_ready().await;
    let mut sockets = [connect(&front).await, connect(&front).await];
    assert_eq!(front.counts.open(), 2);
    let asked = sockets.each_ref().map(|socket| match socket.get_ref() {
        MaybeTlsStream::Plain(stream) => keeps_alive(front.address, stream.local_addr().unwrap()),
        _ => unreachable!(),
    });
    assert_eq!(asked, [true, true]);
    // Longer than a connection may be idle, and more than there may be.
    sleep(Duration::from_millis(600)).await;
    let mut refused = String::new();
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    timeout(SOON, stream.read_to_string(&mut refused)).await.unwrap().unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && front.counts.open() == 2, "neither makes room: {refused}");
    for socket in &mut sockets {
        socket.send(Message::text("still there")).await.unwrap();
        assert_eq!(next(socket).await.unwrap().unwrap(), Message::text("still there"));
    }
    drop(sockets);
    until("both places are free", || front.counts.open() == 0).await;
}

/// Whether the timer of the keepalive runs for the connection with these addresses, as the kernel shows it.
fn keeps_alive(local: SocketAddr, remote: SocketAddr) -> bool {
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':').unwrap().1, 16).unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        (port(columns[1]), port(columns[2])) == (local.port(), remote.port()) && columns[5].starts_with("02:")
    })
}
