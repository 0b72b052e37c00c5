//! A load-balancing endpoint behind Debian's nginx, with the configuration that docs/endpoint.md shows, but for TLS.

use std::path::Path;

use end_to_end_tests::{Daemon, free_port, repository};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::*;

const NGINX: &str = "/usr/sbin/nginx";

/// The configuration of the guide for WebSockets, at this port and for this address.
fn guide(port: u16, address: SocketAddr) -> String {
    let text = std::fs::read_to_string(repository().join("docs/endpoint.md")).unwrap();
    let blocks = text.split("```nginx\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut block = blocks.into_iter().find(|block| block.contains("Upgrade")).unwrap().to_owned();
    for (from, to) in [
        ("listen 443 ssl;", &*format!("listen 127.0.0.1:{port};")),
        ("ssl_certificate /etc/ssl/certs/chat.example.org.crt;", ""),
        ("ssl_certificate_key /etc/ssl/private/chat.example.org.key;", ""),
        ("http://127.0.0.1:8100", &*format!("http://{address}")),
    ] {
        assert!(block.contains(from), "there is no {from} in {block}");
        block = block.replace(from, to);
    }
    block
}

#[tokio::test]
async fn web_sockets_and_requests_pass_through_nginx_as_the_guide_configures_it() {
    if !Path::new(NGINX).exists() {
        return;
    }
    let (requests, (sockets, _codes)) = (Worker::start().await, sockets::echo().await);
    let front = front(&[&requests, &sockets], 4, Keys::default()).await;
    front.all_ready().await;
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let inside = folder.path().display().to_string();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = kinds.map(|kind| format!("{kind}_temp_path {inside}/{kind};\n")).concat();
    let config = format!(
        "daemon off;\npid {inside}/pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{}\n}}\n",
        guide(port, front.address)
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let args = ["-e", "stderr", "-p", &*inside, "-c", &*file.to_string_lossy()].map(str::to_owned);
    let _nginx = Daemon::start("nginx", Path::new(NGINX), &args, &[]);
    let base = format!("127.0.0.1:{port}");
    let reply = eventually("nginx to answer", async || {
        let request = Client::new().get(format!("http://{base}/a%20b?x=%2F")).header("x-runpod-worker-id", "w0");
        request.send().await.ok()?.json::<Value>().await.ok()
    })
    .await;
    assert_eq!(reply["uri"], "/a%20b?x=%2F");
    let request = http_request(&format!("ws://{base}/chat"));
    let (mut socket, answer) = timeout(SOON, connect_async(request)).await.unwrap().unwrap();
    assert_eq!(answer.headers()["x-runpod-worker-id"], "w1");
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap(), Message::text(text));
    }
}

/// A handshake for the worker that echoes.
fn http_request(url: &str) -> axum::http::Request<()> {
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("x-runpod-worker-id", "strict w1".parse().unwrap());
    request
}
